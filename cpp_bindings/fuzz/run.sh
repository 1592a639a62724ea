#!/usr/bin/env bash
# Fuzzes the readers of face models, manifests and images with libFuzzer under AddressSanitizer and UBSan:
# fuzz/run.sh [SECONDS, 60 in all by default] [BUILD FOLDER]. Exits with an error on the first finding.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/.." && pwd)
seconds=${1:-60}
folder=${2:-$source_dir/../build/fuzz}

cmake -S "$source_dir" -B "$folder" -DCMAKE_CXX_COMPILER="${CXX:-clang++}" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCLN_SANITIZE=address,undefined,fuzzer-no-link -DCLN_BUILD_FUZZERS=ON -DCLN_BUILD_ENGINES=OFF >/dev/null
cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-1}" >/dev/null
python3 "$source_dir/fuzz/make_seeds.py" "$folder/corpus"
for reader in face_model manifest image; do
  echo "fuzzing $reader"
  "$folder/fuzz/fuzz_$reader" -max_total_time=$((seconds / 3)) -max_len=8192 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$folder/$reader-" "$folder/corpus/$reader"
done
echo "no finding"
