// An echo on Node's ws. Prints its address, and ends on SIGTERM. With --sink it counts messages
// instead, and answers a text with the count. With --compress it agrees to permessage-deflate, each
// message for itself; with --compress --takeover messages refer to earlier ones. With --topics what
// comes goes to all who are connected to the same path.

import { WebSocketServer } from "ws";

const sink = process.argv.includes("--sink");
const compressing = process.argv.includes("--compress");
const takeover = process.argv.includes("--takeover");

const topics = process.argv.includes("--topics") && new Map();

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  maxPayload: 1 << 28,
  perMessageDeflate: compressing && { serverNoContextTakeover: !takeover },
});

server.on("connection", (socket, request) => {
  if (topics) {
    const members = topics.get(request.url) ?? new Set();
    topics.set(request.url, members.add(socket));
    socket.on("close", () => members.delete(socket));
    socket.on("message", (message, isBinary) => {
      for (const member of members) member.send(message, { binary: isBinary });
    });
  } else if (sink) {
    let messages = 0;
    socket.on("message", (_message, isBinary) => {
      if (isBinary) messages += 1;
      else socket.send(JSON.stringify({ messages }));
    });
  } else {
    socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
  }
  socket.on("error", (error) => console.error(error.message));
});
server.on("listening", () => console.log(`ws://127.0.0.1:${server.address().port}/`));
process.on("SIGTERM", () => process.exit(0));
