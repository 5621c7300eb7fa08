"""Make `src/sampan/kube/data/zeros-*.json`: the fields the built-in kinds always have, if only as their zero value.

    python -m tools.extract_zeros

No published schema file says which fields of a kind are never left out; a running API server does, as `default` in its
OpenAPI v3 documents. Asks the control plane that the conformance suite builds (Kubernetes, Apache-2.0).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.kubernetes.targets import start_real
from tests.conformance.kubernetes.wire import Wire

DATA = Path(__file__).resolve().parent.parent / "src/sampan/kube/data"


def zeros(wire: Wire) -> dict[str, dict[str, Any]]:
    """definition -> field -> its zero value."""
    found: dict[str, dict[str, Any]] = {}
    for path, entry in wire.get("/openapi/v3").body["paths"].items():
        if path.startswith(("api", "apis/")):
            document = wire.request("GET", entry["serverRelativeURL"]).body
            for name, node in document.get("components", {}).get("schemas", {}).items():
                fields = {
                    field: child["default"] for field, child in node.get("properties", {}).items() if "default" in child
                }
                if fields:
                    found[name] = fields
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        target = start_real(Path(directory), controllers=False)
        try:
            found = zeros(Wire(target.kubeconfig))
        finally:
            target.stop()
    path = DATA / "zeros-1.36.json"
    path.write_text(json.dumps(found, sort_keys=True, indent=0, separators=(",", ":")) + "\n")
    print(f"{path.name}: {len(found)} definitions, {sum(map(len, found.values()))} fields")


if __name__ == "__main__":
    main()
