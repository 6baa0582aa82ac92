// A WebSocket of npm's `ws`, between stdin and stdout: each message goes through as a frame of one byte kind
// (1 text, 2 binary), three bytes length, big-endian, and the payload. Ends when either side does.
import { createRequire } from "node:module";
import process from "node:process";

const require = createRequire(new URL("../../../build/npm/", import.meta.url));
const { WebSocket } = require("ws");
const socket = new WebSocket(process.argv[2], ["otagate.v1"]);
let held = Buffer.alloc(0);

function drainInput() {
  while (socket.readyState === WebSocket.OPEN && held.length >= 4) {
    const end = 4 + held.readUIntBE(1, 3);
    if (held.length < end) return;
    socket.send(held.toString("utf8", 4, end));
    held = held.subarray(end);
  }
}

socket.on("open", drainInput);
socket.on("message", (data, isBinary) => {
  const head = Buffer.alloc(4);
  head.writeUInt8(isBinary ? 2 : 1);
  head.writeUIntBE(data.length, 1, 3);
  process.stdout.write(Buffer.concat([head, data]));
});
socket.on("close", () => process.stdin.destroy());
socket.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
process.stdin.on("data", (data) => {
  held = Buffer.concat([held, data]);
  drainInput();
});
process.stdin.on("end", () => socket.close());
