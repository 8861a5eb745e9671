"""Makes kuberay_schema.json.gz from KubeRay's custom resource definitions.

`python tests/docker/make_schema.py ray.io_rayclusters.yaml ray.io_rayjobs.yaml`, with the files of
`ray-operator/config/crd/bases` in the KubeRay repository (Apache License 2.0).

Of each definition the stored version's schema is kept, without descriptions and without `status`.
What occurs several times (a pod template, above all) is written once, under `$defs`. An object's
fields are closed: the API server only drops an unknown field, and a test is to see it.
"""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

NOTICE = (
    "Derived by make_schema.py from the custom resource definitions RayCluster and RayJob of "
    "KubeRay (https://github.com/ray-project/kuberay, after v1.7.0), Apache License 2.0."
)
#: What JSON Schema knows of the keywords that Kubernetes uses.
KEYWORDS = (
    *("type", "properties", "required", "items", "enum", "pattern", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "additionalProperties", "anyOf"),
)


def convert(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes as JSON Schema with closed objects."""
    result: dict[str, Any] = {}
    for key in KEYWORDS:
        if key not in schema:
            continue
        value = schema[key]
        if key == "properties":
            value = {name: convert(field) for name, field in value.items()}
        elif key == "items" or (key == "additionalProperties" and isinstance(value, dict)):
            value = convert(value)
        elif key == "anyOf":
            value = [convert(option) for option in value]
        result[key] = value
    if "properties" in result and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def share(schemas: dict[str, Any]) -> dict[str, Any]:
    """Writes schemas, and what occurs in them more than once and is not tiny, under `$defs`."""
    counts: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object":
                counts[json.dumps(node, sort_keys=True)] += 1
            for child in node.values():
                count(child)
        elif isinstance(node, list):
            for child in node:
                count(child)

    count(schemas)
    names = {
        text: f"s{index}"
        for index, text in enumerate(
            text for text, times in counts.items() if times > 1 and len(text) > 200
        )
    }

    def refer(node: Any, top: bool = False) -> Any:
        if isinstance(node, dict):
            if not top and (name := names.get(json.dumps(node, sort_keys=True))):
                return {"$ref": f"#/$defs/{name}"}
            return {key: refer(child) for key, child in node.items()}
        if isinstance(node, list):
            return [refer(child) for child in node]
        return node

    definitions = {name: refer(json.loads(text), top=True) for text, name in names.items()}
    return {"$defs": {**refer(schemas), **definitions}}


def main(paths: list[str]) -> None:
    """Writes kuberay_schema.json.gz beside this file."""
    schemas = {}
    for path in paths:
        crd = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        (version,) = (v for v in crd["spec"]["versions"] if v["storage"])
        schema = version["schema"]["openAPIV3Schema"]
        del schema["properties"]["status"]
        # Their contents are not part of the definition; the API server knows them.
        del schema["properties"]["metadata"]
        converted = convert(schema)
        converted["properties"]["metadata"] = {"type": "object"}
        converted["required"] = ["apiVersion", "kind", "metadata", "spec"]
        schemas[crd["spec"]["names"]["kind"]] = converted
    result = {"$comment": NOTICE, **share(schemas)}
    text = json.dumps(result, sort_keys=True, separators=(",", ":")) + "\n"
    out = Path(__file__).with_name("kuberay_schema.json.gz")
    out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1:])
