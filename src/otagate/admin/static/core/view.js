/* What every page draws with: Preact's parts and `html`, bound to them. */

import htm from "../vendor/htm.mjs";
import { h } from "../vendor/preact.mjs";

export { Fragment, render } from "../vendor/preact.mjs";
export { useCallback, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";

export const html = htm.bind(h);
