"""The summary of `gpu_check.sh` as Markdown: a line per step, then the tables."""


def summary(title, records):
  """Return the summary of the steps so far.

  Args:
    title: Heading.
    records: Records of the steps, each with `name`, `part`, `status` and `result`.
  """
  results = {record["name"]: record["result"] for record in records}
  lines = [f"# {title}", "", "| step | part | status | seconds | result |", "|---|---|---|---|---|"]
  for record in records:
    cells = [record["name"], record["part"], record["status"], str(record.get("seconds", ""))]
    text = record.get("reason") or figures(record["name"], results)
    lines.append(f"| {' | '.join(cells)} | {text.replace('|', '/')} |")
  return "\n".join([*lines, *machine(results.get("machine", {})), *tables(records)]) + "\n"


def figures(name, results):
  """Return the figures of a step as a short text."""
  result = results[name]
  if "clips_per_second" in result:
    return speed(name, results)
  outcomes = [test["outcome"] for test in result.values() if is_test(test)]
  if outcomes:
    counts = [f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes))]
    return ", ".join([*counts, *recorded(result)])
  return next((line[:120] for line in result.get("output", []) if "same bits" in line), "")


def is_test(value):
  """Return whether a value is the result of a test."""
  return isinstance(value, dict) and "outcome" in value


def recorded(result):
  """Return what tests recorded, as texts."""
  known = ("outcome", "seconds", "reason")
  return [
    f"{key} {value:.2g}"
    for test in result.values()
    for key, value in test.items()
    if key not in known and isinstance(value, float)
  ]


def speed(name, results):
  """Return the rate of a benchmark, relative to PyTorch's and to the matrix product's."""
  result = results[name]
  cells = [f"{result['clips_per_second']:,.4g} clips/s"]
  peer = results.get(f"{name} torch", {}).get("clips_per_second")
  if peer:
    cells.append(f"{result['clips_per_second'] / peer:.2f} of torch")
  peak = results.get("machine", {}).get(f"{result.get('dtype')} FLOP/s")
  if peak and "flops_per_second" in result:
    cells.append(f"{result['flops_per_second'] / peak:.0%} of the matrix product")
  cells.append(f"{result['peak_bytes'] / 1e9:.2f} GB")
  for feed in ("host", "device"):
    if f"{feed}_wait" in result:
      slower, wait = result[f"{feed}_slowdown"], result[f"{feed}_wait"]
      cells.append(f"{feed}: {slower:.1%} slower, waits {wait:.2%}")
  return ", ".join(cells)


def machine(facts):
  """Return the lines about the machine."""
  return ["", ", ".join(f"{key} {value}" for key, value in facts.items() if key != "output")]


def tables(records):
  """Return the lines of the tables: layers, operations, and the last table of each result."""
  found = {}
  for record in records:
    result, name = record["result"], record["name"]
    if "layers" in result:
      from atgcn_jax.bench.layers import layer_table

      found[name] = layer_table(result).splitlines()
    elif "operations" in result:
      from atgcn_jax.bench.operations import operation_table

      found[name] = operation_table(result["operations"]).splitlines()
    elif any(line.startswith("|") for line in result.get("output", [])):
      found[name.partition(" seeds ")[0]] = result["output"]
  return [line for name, table in found.items() for line in ("", f"## {name}", "", *table)]
