#!/usr/bin/env bash
# Install atgcn, then train and compare two systems on the built-in soundscapes: CNN10 and AT-GCN.
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
begin=$SECONDS
say() { printf '\n[%3d s] %s\n' $((SECONDS - begin)) "$*"; }

out=quickstart
say "1/5 environment"
install ""
atgcn=.venv/bin/atgcn

say "2/5 training CNN10 in $out/cnn10 (the first start generates the built-in soundscapes)"
"$atgcn" train --config configs/quickstart.py --workdir $out/cnn10 --config.model.head=linear
say "3/5 training AT-GCN in $out/atgcn"
"$atgcn" train --config configs/quickstart.py --workdir $out/atgcn --config.model.head=graph

say "4/5 evaluating both on the test fold"
for system in cnn10 atgcn; do
  "$atgcn" evaluate --workdir "$out/$system" --json >"$out/$system.json"
done
.venv/bin/python - "$out" <<'PY'
import json, sys

print(f"{'system':8} {'mAP':>7} {'mAUC':>7} {'d-prime':>8} {'clips':>6} {'labels':>7}")
for system in ("cnn10", "atgcn"):
  with open(f"{sys.argv[1]}/{system}.json") as file:
    row = json.loads(file.read().splitlines()[-1])
  print(
    f"{system:8} {row['mAP']:7.4f} {row['mAUC']:7.4f} {row['d_prime']:8.3f} "
    f"{row['clips']:6} {row['classes']:7}"
  )
PY

say "5/5 tagging one soundscape that neither was trained on"
"$atgcn" soundscapes --out "$out/sound" --clips 10 >/dev/null
grep '^000009' "$out/sound/labels.csv" | sed 's/^/true labels: /'
"$atgcn" tag --workdir "$out/atgcn" "$out/sound/audio/000009.flac"

say "done; open $out/cnn10/report.html and $out/atgcn/report.html in a browser"
