#!/bin/sh
# The quickstart in a shell with curl: reads one example as JSON on stdin, calls two models, prints the answer.
# Needs curl, and python3 to read and write JSON.
set -eu
example=$(cat)
reply=$(mktemp)
trap 'rm -f "$reply"' EXIT

# question STATEMENT: the body of a call; the Python statement sets `model` and `question` from the example `x` and
# the text of the last reply, $town.
question() {
    EXAMPLE=$example TOWN=${town-} python3 -c "
import json, os
x, town = json.loads(os.environ['EXAMPLE']), os.environ['TOWN']
$1
print(json.dumps({'model': model, 'messages': [{'role': 'user', 'content': question}]}))"
}

# ask BODY: the text of the model's answer; fails if the endpoint returns an error.
ask() {
    printf '%s' "$1" | curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
        -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' --data-binary @- > "$reply" ||
        { cat "$reply" >&2; exit 1; }
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])' < "$reply"
}

town=$(ask "$(question "
model = 'agentopt/find'
people = [fact for fact in x['facts'] if not fact.startswith('The ')]
question = '\n'.join([*people, x['link_question']])")")

ask "$(question "
model, kind = 'agentopt/answer', x['kind']
landmarks = [fact for fact in x['facts'] if town in fact and fact.startswith('The ' + kind)]
question = '\n'.join([*landmarks, f'What is the name of the {kind}?'])")"
