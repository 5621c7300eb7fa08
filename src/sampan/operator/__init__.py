"""Controllers for any Kubernetes: cache, work queue, reconcile, ownership.

    class Greeter(Controller):
        name, resource = "greeter", kinds.CONFIG_MAP

        async def reconcile(self, key: str) -> Result | None: ...

    async with Manager(Client(HttpsTransport.from_kubeconfig())) as manager: manager.add(Greeter())

The parts: `cache` (shared informers, and a client whose writes they see at once), `queue`, `controller`, `manager`,
and the helpers `events`, `conditions`, `finalizers`, `lease`. Nothing here knows the embedded cluster.
"""

from sampan.operator.cache import Cache
from sampan.operator.controller import Controller, Maps, Owns, Result, Watch
from sampan.operator.manager import Manager
from sampan.operator.queue import QueueClosed, WorkQueue

__all__ = ["Cache", "Controller", "Manager", "Maps", "Owns", "QueueClosed", "Result", "Watch", "WorkQueue"]
