// An echo on Bun's own server. Prints its address, and ends on SIGTERM.

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: (request, server) =>
    server.upgrade(request) ? undefined : new Response("WebSocket only", { status: 426 }),
  websocket: {
    maxPayloadLength: 1 << 28,
    backpressureLimit: 1 << 28,
    message: (socket, message) => {
      socket.send(message);
    },
  },
});

console.log(`ws://127.0.0.1:${server.port}/`);
process.on("SIGTERM", () => process.exit(0));
