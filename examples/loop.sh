#!/bin/sh
# The loop on generated posts: a table becomes a model in service, moderators judge what it lets pass, and a better
# model takes its place without a restart.   examples/loop.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
people() { python "$here/loop_posts.py" "$@"; }
cd "${1:-$(mktemp -d)}"
echo "in $PWD"

# From a table to a model in service.
people write posts.csv 3000
bifocal init posts.csv -o posts.yaml
bifocal run posts.yaml --set splits.test=0.4 --set decide.threshold.by=f1 --set bootstrap=200 --quiet
bifocal promote runs/posts                      # runs/current leads to it
DECIDE_KEY=$(bifocal keys add runs/current shop)
REVIEW_KEY=$(bifocal keys add runs/current ann --role review)
export DECIDE_KEY REVIEW_KEY
bifocal serve runs/current --port 0 --set keep_originals=true --set audit_share=1 --set reload_s=0.5 > serve.log &
service=$!
trap 'kill $service' EXIT
until grep -q " at http" serve.log; do kill -0 $service; sleep 0.5; done
url=$(sed -n 's/.* at \(http.*\)/\1/p' serve.log)

# A month of posts; half of the abuse has a word that the model has never seen. Moderators judge 60 of what it allowed.
people ask "$url" asked.jsonl 200
people judge "$url" asked.jsonl 60
bifocal feedback export runs/current -o judged

# The next model, on the splits of before; into service where it is better or no worse.
bifocal retrain runs/current --feedback judged --promote --quiet
people wait "$url" runs/posts-2                 # the same process decides by the new model
people ask "$url" again.jsonl 40
bifocal compare runs/posts runs/posts-2 --output comparison --no-latency --quiet

# Verdicts turned round are refused before anything is trained.
people flip judged flipped
status=0; bifocal retrain runs/current --feedback flipped --promote --quiet || status=$?
test $status -eq 2

# And back.
bifocal promote runs/current --back
people wait "$url" runs/posts
echo "the loop is closed"
