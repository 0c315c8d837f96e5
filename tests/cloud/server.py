"""The calls that gcloud makes on a `Cloud`, and those that machines make on their metadata server, over HTTP."""

import base64
import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from collections import deque
from typing import NamedTuple

from cloud.tpus import Cloud, Refused, shape


class Call(NamedTuple):
    """One call to the TPU API, taken apart."""

    cloud: Cloud
    place: str  # projects/P/locations/Z
    name: str  # of the resource, if one is named
    query: dict[str, str]
    body: dict


@contextlib.contextmanager
def serving(cloud: Cloud):
    """Answers within the cloud's network while open; the list of all calls to the TPU API, as `METHOD path`."""
    server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket, server.cloud, server.calls, server.operations = cloud.network.listener, cloud, [], {}
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.calls
    finally:
        server.shutdown()
        thread.join()


def get_node(call: Call) -> dict:
    return found(call, call.cloud.nodes)


def list_nodes(call: Call) -> dict:
    return {"nodes": [node for node in call.cloud.nodes.values() if node["name"].startswith(f"{call.place}/")]}


def create_node(call: Call) -> dict:
    name = free(call, call.cloud.nodes, call.query["nodeId"])
    shape(call.body["acceleratorType"])
    fate = call.cloud.fate()
    if fate.error:
        return {"error": fate.error}
    call.cloud.make(call.place, [name], call.body)
    call.cloud.boot(name)
    return {"response": call.cloud.nodes[name]}


def delete_node(call: Call) -> dict:
    found(call, call.cloud.nodes)
    call.cloud.suspend(call.name)
    call.cloud.vanish(call.name)
    return {"response": {}}


def patch_node(call: Call) -> dict:
    node = found(call, call.cloud.nodes)
    node |= {field: call.body[field] for field in call.query["updateMask"].split(",")}
    return {"response": node}


def stop_node(call: Call) -> dict:
    node = found(call, call.cloud.nodes)
    call.cloud.halt(call.name)
    node["state"] = "STOPPED"
    return {"response": node}


def start_node(call: Call) -> dict:
    node = found(call, call.cloud.nodes)
    call.cloud.boot(call.name)
    return {"response": node}


def guest_attributes(call: Call) -> dict:
    node = found(call, call.cloud.nodes)
    workers = [worker for worker in call.body.get("workerIds", []) if worker] or range(len(node["networkEndpoints"]))
    keys = [f"AAAAC3NzaC1lZDI1NTE5{node['id']}{worker}" for worker in workers]
    items = [dict(namespace="hostkeys", key="ssh-ed25519", value=key) for key in keys]
    return {"guestAttributes": [{"queryValue": {"items": [item]}} for item in items]}


def get_queued(call: Call) -> dict:
    found(call, call.cloud.queued)
    call.cloud.show(call.name)
    return found(call, call.cloud.queued)


def list_queued(call: Call) -> dict:
    for name in list(call.cloud.queued):
        call.cloud.show(name)
    return {"queuedResources": [q for q in call.cloud.queued.values() if q["name"].startswith(f"{call.place}/")]}


def create_queued(call: Call) -> dict:
    cloud, name = call.cloud, free(call, call.cloud.queued, call.query["queuedResourceId"])
    shape(call.body["tpu"]["nodeSpec"][0]["node"]["acceleratorType"])
    fate = cloud.fate()
    cloud.queued[name] = call.body | dict(name=f"{call.place}/queuedResources/{name}", createTime=cloud.now())
    cloud.queued[name]["state"] = {"state": "CREATING"}
    cloud.ahead[name], cloud.errors[name] = deque(fate.states), fate.error
    for node in cloud.slices(name):
        if node in cloud.nodes:
            raise Refused(409, "ALREADY_EXISTS", f"Resource '{cloud.nodes[node]['name']}' already exists")
    return {"response": cloud.queued[name]}


def delete_queued(call: Call) -> dict:
    queued = found(call, call.cloud.queued)
    state = queued["state"]["state"]
    if call.query.get("force", "").lower() != "true" and state not in ("ACCEPTED", "FAILED", "SUSPENDED"):
        message = f"Cannot delete queued resource {queued['name']} in state {state}; use force"
        raise Refused(400, "FAILED_PRECONDITION", message)
    for node in call.cloud.slices(call.name):
        call.cloud.halt(node)
    queued["state"] = {"state": "DELETING"}
    call.cloud.ahead[call.name] = deque(["DELETING", "GONE"])
    return {"response": {}}


def reset_queued(call: Call) -> dict:
    queued = found(call, call.cloud.queued)
    for node in call.cloud.slices(call.name):
        call.cloud.halt(node)
        call.cloud.nodes.pop(node, None)
    call.cloud.ahead[call.name] = deque(call.cloud.fate().states)
    return {"response": queued}


# Those marked True change something: they are answered with an operation.
CALLS = [
    ("GET", "nodes", list_nodes, False),
    ("POST", "nodes", create_node, True),
    ("GET", "nodes/NAME", get_node, False),
    ("PATCH", "nodes/NAME", patch_node, True),
    ("DELETE", "nodes/NAME", delete_node, True),
    ("POST", "nodes/NAME:stop", stop_node, True),
    ("POST", "nodes/NAME:start", start_node, True),
    ("POST", "nodes/NAME:getGuestAttributes", guest_attributes, False),
    ("GET", "queuedResources", list_queued, False),
    ("POST", "queuedResources", create_queued, True),
    ("GET", "queuedResources/NAME", get_queued, False),
    ("DELETE", "queuedResources/NAME", delete_queued, True),
    ("POST", "queuedResources/NAME:reset", reset_queued, True),
]
PLACE = "(?P<place>projects/[^/]+/locations/[a-z]+-[a-z]+[0-9]-[a-z])"  # no zone named None


def found(call: Call, resources: dict[str, dict]) -> dict:
    if call.name not in resources or not resources[call.name]["name"].startswith(f"{call.place}/"):
        raise Refused(404, "NOT_FOUND", f"Resource '{call.place}/{call.name}' was not found")
    return resources[call.name]


def free(call: Call, resources: dict[str, dict], name: str) -> str:
    if name in resources:
        raise Refused(409, "ALREADY_EXISTS", f"Resource '{resources[name]['name']}' already exists")
    return name


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        try:
            with self.server.cloud.lock:
                if url.path.startswith("/computeMetadata/v1/"):
                    return self.send(200, self.metadata(url.path).encode())
                self.send(200, json.dumps(self.json(url)).encode())
        except Refused as refused:
            code, status, message = refused.args
            self.send(code, json.dumps({"error": {"code": code, "message": message, "status": status}}).encode())

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def metadata(self, path: str) -> str:
        """Of the machine at whose address this was asked."""
        attributes = self.server.cloud.attributes[self.connection.getsockname()[0]]
        key = path.rpartition("/instance/attributes/")[2]
        if self.headers["Metadata-Flavor"] != "Google" or key not in attributes:
            raise Refused(404, "NOT_FOUND", f"no metadata at {path}")
        return attributes[key]

    def json(self, url: urllib.parse.SplitResult) -> dict:
        if url.path.startswith("/compute/v1/projects/"):
            common = {"kind": "compute#metadata", "fingerprint": base64.b64encode(b"fake").decode(), "items": []}
            return {"name": url.path.rpartition("/")[2], "commonInstanceMetadata": common}
        if url.path in self.server.operations:
            return self.server.operations[url.path]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        query = {key: value for key, value in urllib.parse.parse_qsl(url.query)}
        for method, pattern, function, changes in CALLS:
            path = rf"/v2(?:alpha1)?/{PLACE}/{pattern.replace('NAME', '(?P<name>[^/:]+)')}"
            if method == self.command and (match := re.fullmatch(path, url.path)):
                self.server.calls.append(f"{method} {url.path.partition('/locations/')[2].partition('/')[2]}")
                name = match.groupdict().get("name", "")
                answer = function(Call(self.server.cloud, match["place"], name, query, body))
                return self.operation(match["place"], answer) if changes else answer
        raise Refused(404, "NOT_FOUND", f"no such method: {self.command} {self.path}")

    def operation(self, place: str, result: dict) -> dict:
        """One that has ended with the result."""
        name = f"{place}/operations/operation-{len(self.server.operations) + 1}"
        if "response" in result:
            result = {"response": {"@type": "type.googleapis.com/google.protobuf.Struct"} | result["response"]}
        for version in ("v2", "v2alpha1"):
            self.server.operations[f"/{version}/{name}"] = {"name": name, "done": True} | result
        return {"name": name, "done": True} | result
