"""Judges an OpenRPC document and values by Debian's python3-jsonschema.

Standard input: {"meta": the schema of OpenRPC documents, "document": the document,
"values": [[method, result], ..]}. Prints what is wrong, a line each, and nothing where all is right.
Nothing is fetched: the two schemas that are named by address are given here.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")
try:
    from jsonschema import Draft7Validator, RefResolver
except ImportError:
    sys.exit(77)

# The schema of JSON Schema, as it is named and as that is a base. That one has a part of another name.
ADDRESSES = ["https://meta.json-schema.tools", "https://meta.json-schema.tools/"]
DRAFT_7 = dict(Draft7Validator.META_SCHEMA)
DRAFT_7["definitions"] = {
    "JSONSchemaObject": {"properties": {"$ref": DRAFT_7["properties"]["$ref"]}},
    **DRAFT_7["definitions"],
}


class Offline(RefResolver):
    def resolve_remote(self, uri):
        raise LookupError(f"{uri} is not given")


def faults(validator, value):
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(value)]


given = json.load(sys.stdin)
meta, document = given["meta"], given["document"]
store = {address: DRAFT_7 for address in ADDRESSES}
wrong = faults(Draft7Validator(meta, resolver=Offline.from_schema(meta, store=store)), document)
if wrong:
    # What follows rests on its shape.
    print("\n".join(wrong))
    sys.exit()

resolver = Offline("", document)
for name, schema in document["components"]["schemas"].items():
    for example in schema.get("examples", []):
        wrong += [f"example of {name}: {it}" for it in faults(Draft7Validator(schema, resolver=resolver), example)]
methods = {method["name"]: method for method in document["methods"]}
for method in methods.values():
    for example in method["examples"]:
        given["values"].append([method["name"], example["result"]["value"]])
        params = {param["name"]: param["schema"] for param in method["params"]}
        for param in example["params"]:
            validator = Draft7Validator(params[param["name"]], resolver=resolver)
            wrong += [f"example of {method['name']}: {it}" for it in faults(validator, param["value"])]
for name, value in given["values"]:
    validator = Draft7Validator(methods[name]["result"]["schema"], resolver=resolver)
    wrong += [f"result of {name}: {it}" for it in faults(validator, value)]
print("\n".join(wrong), end="")
