// Requests to the server. Errors are Error objects with one sentence for the user.

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new Error("The server does not answer. Is `atgcn serve` still running?");
  }
  if (response.ok) return response.json();
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error || sentence;
  } catch { /* the body is no JSON */ }
  throw new Error(sentence);
}

function query(rules) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(rules)) if (value !== null) parts.set(name, value);
  return parts.size ? `?${parts}` : "";
}

export const model = () => answer(fetch("/api/model"));

export const analyse = (blob, name, rules) =>
  answer(fetch(`/api/sounds${query({ name, ...rules })}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: blob,
  }));

export const detections = (id, rules) => answer(fetch(`/api/sounds/${id}/detections${query(rules)}`));

export const table = (id, format, rules) => `/api/sounds/${id}/tables/${format}${query(rules)}`;
