// Recording from the microphone, as a wav file: every server can read it, whatever the browser records.

export async function startRecording() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser allows recording only at https:// addresses, localhost and 127.0.0.1.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    throw new Error(error.name === "NotFoundError"
      ? "The browser finds no microphone."
      : "The browser may not use the microphone; allow it beside the address.");
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  return async () => {
    recorder.stop();
    await ended;
    for (const track of stream.getTracks()) track.stop();
    return asWav(new Blob(parts));
  };
}

async function asWav(blob) {
  const context = new AudioContext();
  try {
    const sound = await context.decodeAudioData(await blob.arrayBuffer());
    return new Blob([wavBytes(sound.getChannelData(0), sound.sampleRate)], { type: "audio/wav" });
  } catch {
    throw new Error("The recording is empty; record for a little longer.");
  } finally {
    context.close();
  }
}

function wavBytes(samples, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // channels
  bytes.setUint32(24, rate, true);
  bytes.setUint32(28, 2 * rate, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  text(36, "data");
  bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return bytes.buffer;
}
