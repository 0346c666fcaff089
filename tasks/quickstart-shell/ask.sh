#!/bin/sh
# The quickstart in a shell with curl: reads one example as JSON on stdin, asks two models, prints the answer.
# Needs curl, and python3 to read and write JSON.
set -eu

example=$(cat)

get() {  # get EXPRESSION: a Python expression over the example `x`, with $1 ... as sys.argv
    expression=$1; shift
    printf '%s' "$example" | python3 -c "import json, sys; x = json.load(sys.stdin); print($expression)" "$@"
}

ask() {  # ask MODEL QUESTION: the model's answer; fails where the endpoint answers with an error
    python3 -c 'import json, sys
print(json.dumps({"model": sys.argv[1], "messages": [{"role": "user", "content": sys.argv[2]}]}))' "$1" "$2" |
        curl --silent --show-error --fail-with-body --noproxy '*' "$OPENAI_BASE_URL/chat/completions" \
            -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' --data-binary @- > "$reply" ||
        { cat "$reply" >&2; exit 1; }
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])' < "$reply"
}

reply=$(mktemp)
trap 'rm -f "$reply"' EXIT

people=$(get '"\n".join([f for f in x["facts"] if not f.startswith("The ")] + [x["link_question"]])')
town=$(ask agentopt/find "$people")
landmarks=$(get '"\n".join([f for f in x["facts"] if sys.argv[1] in f and f.startswith("The " + x["kind"])]
    + ["What is the name of the " + x["kind"] + "?"])' "$town")
ask agentopt/answer "$landmarks"
