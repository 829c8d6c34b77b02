"""Calls with the jsonrpcclient of PyPI, whose folder is the first argument.

Standard input: [address, method, parameters] a line; parameters of null are left out. Standard output:
{"result": ..} or {"error": [code, message, data]} a line, as the client understands the answers.
"""

import json
import sys
import urllib.request

sys.path.insert(0, sys.argv[1])
try:
    import jsonrpcclient
except ImportError:
    sys.exit(77)

print("ready", flush=True)
for line in sys.stdin:
    address, method, params = json.loads(line)
    call = jsonrpcclient.request(method) if params is None else jsonrpcclient.request(method, params)
    request = urllib.request.Request(
        f"http://{address}/rpc", json.dumps(call).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answer = jsonrpcclient.parse(json.load(response))
    if isinstance(answer, jsonrpcclient.Ok):
        assert answer.id == call["id"], (answer, call)
        print(json.dumps({"result": answer.result}), flush=True)
    else:
        assert isinstance(answer, jsonrpcclient.Error), answer
        print(json.dumps({"error": [answer.code, answer.message, answer.data]}), flush=True)
