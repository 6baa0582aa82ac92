/* Digests a file off the page's thread: is posted a File, posts {done, total} as it goes and {md5} at the end. */

import { Md5 } from "./md5.js";

const PIECE_BYTES = 4 * 1024 * 1024;

self.onmessage = async ({ data: file }) => {
  try {
    const digest = new Md5();
    for (let at = 0; at < file.size; at += PIECE_BYTES) {
      const piece = await file.slice(at, at + PIECE_BYTES).arrayBuffer();
      digest.update(new Uint8Array(piece));
      self.postMessage({ done: Math.min(at + PIECE_BYTES, file.size), total: file.size });
    }
    self.postMessage({ md5: digest.hex() });
  } catch (error) {
    self.postMessage({ failed: String(error) });
  }
};
