// Shows the OpenAPI description of this server.

const $ = (id) => document.getElementById(id);

function made(name, text = "", kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = kind;
  return element;
}

function table(headings, rows) {
  const whole = made("table");
  const head = whole.createTHead().insertRow();
  for (const heading of headings) head.append(made("th", heading));
  const body = whole.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    for (const cell of cells) row.insertCell().textContent = cell;
  }
  return whole;
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.enum) return schema.enum.join(", ");
  const range = schema.maximum === undefined ? "" : ` up to ${schema.maximum}`;
  return `${schema.type}${range}${schema.default === undefined ? "" : `, default ${schema.default}`}`;
}

function operation(path, method, described, parameters) {
  const section = made("section");
  const title = made("h2");
  title.append(made("span", method.toUpperCase(), `method ${method}`), made("code", path));
  section.append(title, made("p", described.summary), made("p", described.description || "", "quiet"));
  if (parameters.length) {
    section.append(table(["Parameter", "In", "Type", "Meaning"],
      parameters.map((one) => [one.name, one.in, typeOf(one.schema), one.description || ""])));
  }
  if (described.requestBody) section.append(made("p", `Body: ${described.requestBody.description}`));
  section.append(table(["Status", "Answer", "Type"],
    Object.entries(described.responses).map(([status, answer]) => [
      status, answer.description,
      Object.entries(answer.content || {}).map(([media, { schema }]) =>
        schema.$ref ? typeOf(schema) : media).join(", "),
    ])));
  return section;
}

const description = await (await fetch("/api/openapi.json")).json();
const resolved = (one) => (one.$ref
  ? one.$ref.split("/").slice(1).reduce((part, key) => part[key], description)
  : one);
$("version").textContent = `${description.info.title} ${description.info.version}`;
$("about").textContent = description.info.description;
$("example").textContent = [
  `curl --data-binary @recording.wav -H 'Content-Type: application/octet-stream' \\`,
  `  '${location.origin}/api/sounds?name=recording.wav&min_score=0.5'`,
  `curl '${location.origin}/api/sounds/ID/tables/raven?min_score=0.5'   # ID as the first answer states it`,
].join("\n");
for (const [path, operations] of Object.entries(description.paths)) {
  for (const [method, described] of Object.entries(operations)) {
    for (const status of Object.keys(described.responses)) {
      described.responses[status] = resolved(described.responses[status]);
    }
    $("operations").append(operation(path, method, described, (described.parameters || []).map(resolved)));
  }
}
for (const [name, schema] of Object.entries(description.components.schemas)) {
  const section = made("section");
  section.append(made("h3", name), made("p", schema.description || "", "quiet"));
  section.append(table(["Field", "Type", "Meaning"],
    Object.entries(schema.properties).map(([key, field]) => [key, typeOf(field), field.description || ""])));
  $("schemas").append(section);
}
