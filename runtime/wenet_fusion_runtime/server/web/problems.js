// Error messages, which say what went wrong and what to do.

/** An error to show to the user: `title` says what happened, `help` what to do. */
export class Problem extends Error {
  constructor(title, help) {
    super(title);
    this.title = title;
    this.help = help;
  }
}

/** Explain an error of `getUserMedia` or of the audio device. */
export function microphoneProblem(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new Problem(
        "The microphone is blocked",
        "Allow it for this page in the browser's address bar (and for the browser in the system's privacy settings), " +
          "then try again.",
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return new Problem("No microphone was found", "Connect one and try again, or drop an audio file onto the page.");
    case "NotReadableError":
    case "AbortError":
      return new Problem(
        "The microphone does not answer",
        "Another program may be using it. Close that program, or unplug the microphone and plug it in again, then try again.",
      );
    default:
      return new Problem("The microphone could not be started", `The browser says: ${error.message}`);
  }
}

export function insecureOrigin() {
  const port = location.port ? `:${location.port}` : "";
  return new Problem(
    "No microphone at this address",
    `Browsers allow the microphone only over https or on the same computer. Open https://${location.host}, or ` +
      `http://localhost${port} where the server runs. Audio files work here too: drop one onto the page.`,
  );
}

export function microphoneLost() {
  return new Problem(
    "The microphone was disconnected",
    "It was unplugged, or another program took it. The text so far is kept. Connect it and try again.",
  );
}

export function connectionLost() {
  return new Problem(
    "Connection lost",
    "The text so far is kept. Check the network and that the server is running, then try again.",
  );
}

export function unreachable() {
  return new Problem(
    "The server cannot be reached",
    "Check the network and that the server is running, then try again.",
  );
}

export function tooSlow(seconds) {
  return new Problem(
    "The connection is too slow",
    `${Math.round(seconds)} seconds of speech could not be sent yet. The text so far is kept. ` +
      "Try again on a faster network.",
  );
}

const NORMAL = 1000;          // close codes of WebSockets
const TRY_LATER = 1013;
const GOING_AWAY = 1001;

const RESTART = 1012;

/** Return whether the session may continue on a new connection after an error message and this close code. */
export function mayComeBack(closeCode) {
  return [GOING_AWAY, RESTART, TRY_LATER].includes(closeCode);
}

function serverFull() {
  return new Problem("The server is full", "All of its sessions are in use. Try again in a moment.");
}

/** Explain the error message that the server sent before it closed the WebSocket. */
export function failure(message, closeCode, hasBegun) {
  if (closeCode === TRY_LATER) return serverFull();
  if (closeCode === GOING_AWAY) {
    return new Problem("The server is shutting down", "The text so far is kept. Try again once it is back.");
  }
  if (!hasBegun && closeCode === NORMAL) {
    return new Problem("The server does not accept these options", `It says: ${message}. Change them under Options and try again.`);
  }
  return new Problem("The server ended the session", `It says: ${message}.`);
}

/** Explain the server's error for a file; `status` is HTTP's, or null for an error in a streamed response. */
export function uploadRefused(status, message) {
  if (status === 503) return new Problem("The server cannot take the file now", `It says: ${message}. Try again in a moment.`);
  if (status === 413) return new Problem("The file is too large", `Cut it into shorter files. The server says: ${message}.`);
  return new Problem("The server could not transcribe the file", `It says: ${message}.`);
}

export function unreadableFile(name, message) {
  return new Problem(
    `${name} could not be read`,
    "This browser cannot read its format either. Convert it to wav, flac, ogg or mp3 and try again. " +
      `The server says: ${message}.`,
  );
}

export function tokenNeeded() {
  return new Problem(
    "This server asks for a token",
    "Ask the server's operator for it, add ?token=YOUR-TOKEN to this page's address, and open that address.",
  );
}
