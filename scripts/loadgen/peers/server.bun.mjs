// An echo on Bun's own server. Prints its address, and ends on SIGTERM. With --sink it counts
// messages instead, and answers a text with the count.

const sink = process.argv.includes("--sink");

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: (request, server) =>
    server.upgrade(request, { data: { messages: 0 } }) ? undefined : new Response("WebSocket only", { status: 426 }),
  websocket: {
    maxPayloadLength: 1 << 28,
    backpressureLimit: 1 << 28,
    message: (socket, message) => {
      if (!sink) {
        socket.send(message);
      } else if (typeof message === "string") {
        socket.send(JSON.stringify(socket.data));
      } else {
        socket.data.messages += 1;
      }
    },
  },
});

console.log(`ws://127.0.0.1:${server.port}/`);
process.on("SIGTERM", () => process.exit(0));
