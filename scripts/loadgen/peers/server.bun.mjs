// An echo on Bun's own server. Prints its address, and ends on SIGTERM. With --sink it counts
// messages instead, and answers a text with the count. With --compress it agrees to
// permessage-deflate, each message for itself; with --compress --takeover messages refer to earlier
// ones. With --topics whoever connects subscribes to its path, and what it sends goes to all who do.
// With a certificate and its key as further arguments it speaks TLS.

const sink = process.argv.includes("--sink");
const compressing = process.argv.includes("--compress");
const how = process.argv.includes("--takeover") ? "dedicated" : "shared";
const topics = process.argv.includes("--topics");
const [certificate, key] = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  tls: certificate ? { cert: Bun.file(certificate), key: Bun.file(key) } : undefined,
  fetch: (request, server) =>
    server.upgrade(request, { data: { messages: 0, topic: new URL(request.url).pathname } }) ? undefined : new Response("WebSocket only", { status: 426 }),
  websocket: {
    maxPayloadLength: 1 << 28,
    backpressureLimit: 1 << 28,
    perMessageDeflate: compressing && { compress: how, decompress: how },
    open: (socket) => {
      if (topics) socket.subscribe(socket.data.topic);
    },
    message: (socket, message) => {
      if (topics) {
        server.publish(socket.data.topic, message, compressing);
      } else if (!sink) {
        socket.send(message, compressing);
      } else if (typeof message === "string") {
        socket.send(JSON.stringify(socket.data));
      } else {
        socket.data.messages += 1;
      }
    },
  },
});

console.log(`${certificate ? "wss" : "ws"}://127.0.0.1:${server.port}/`);
process.on("SIGTERM", () => process.exit(0));
