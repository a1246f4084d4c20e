// An echo on Node's ws. Prints its address, and ends on SIGTERM.

import { WebSocketServer } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, maxPayload: 1 << 28 });

server.on("connection", (socket) => {
  socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
  socket.on("error", (error) => console.error(error.message));
});
server.on("listening", () => console.log(`ws://127.0.0.1:${server.address().port}/`));
process.on("SIGTERM", () => process.exit(0));
