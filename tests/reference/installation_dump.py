"""Writes a dump of an installation as an older `pyrograph` leaves it: a row of every noun, finished, failed,
canceled, running and queued. `domain/tests/database/` brings such dumps up to date and checks that nothing is lost.

Usage: installation_dump.py PYROGRAPH OUTPUT.sql

PYROGRAPH is the binary of the commit *before* the migrations under test. It needs `pg_dump` of Postgres 15 or later.
The server is killed while jobs run, so that the dump holds jobs in every state.
"""

import base64
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SERVER = "http://127.0.0.1:18099"
PICTURES = pathlib.Path(__file__).resolve().parents[2] / "datasets/pyrography"
SECRET_QUERY = "signature=0123456789abcdef"


def call(method, path, body=None, headers=None):
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    kind = {} if isinstance(body, bytes) else {"content-type": "application/json"}
    request = urllib.request.Request(SERVER + path, data, {**kind, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None


def form(path, fields):
    """`fields`: name, file name or None, bytes."""
    edge = "edge-of-a-part"
    body = b""
    for name, file, content in fields:
        file = f'; filename="{file}"' if file else ""
        kind = "Content-Type: image/png\r\n" if file.endswith('.png"') else ""
        body += f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{kind}\r\n'.encode() + content + b"\r\n"
    body += f"--{edge}--\r\n".encode()
    return call("POST", path, body, {"content-type": f"multipart/form-data; boundary={edge}"})


def settled(path, status="succeeded"):
    until = time.monotonic() + 600
    while time.monotonic() < until:
        noun = call("GET", path)
        if noun["status"] in ("succeeded", "failed", "canceled"):
            assert noun["status"] == status, noun
            return noun
        time.sleep(0.2)
    raise RuntimeError(f"{path} did not end")


def fill(folder):
    """Makes the rows and returns when one job runs and others wait."""
    dataset = call("POST", "/v1/datasets", {"name": "pyrography"})
    for name in ("apple", "bicycle", "butterfly"):
        picture = ("image", f"{name}.png", (PICTURES / f"{name}.png").read_bytes())
        form(f"/v1/datasets/{dataset['id']}/images", [picture, ("caption", None, f"{name} in xqv style".encode())])
    call("POST", f"/v1/datasets/{dataset['id']}/uploads", {"file_name": "cat.png", "media_type": "image/png"})
    empty = call("POST", "/v1/datasets", {"name": "deleted"})
    call("DELETE", f"/v1/datasets/{empty['id']}")

    training = {"name": "style", "dataset": dataset["id"], "steps": 4, "rank": 4, "batch_size": 1, "resolution": 64,
                "trigger_word": "xqv", "seed": 1}
    made = settled(f"/v1/trainings/{call('POST', '/v1/trainings', training)['id']}")
    adapter = urllib.request.urlopen(made["artifacts"][0]["url"]).read()
    settled(f"/v1/exports/{call('POST', '/v1/models/style/export?format=kohya')['id']}")
    form("/v1/models", [("name", None, b"uploaded"), ("base", None, b"ember"), ("file", "a.safetensors", adapter)])
    call("DELETE", "/v1/models/uploaded")
    call("POST", "/v1/uploads", {"bytes": 70_000_000})
    file = folder / "adapter.safetensors"
    file.write_bytes(adapter)
    settled(f"/v1/imports/{call('POST', '/v1/models', {'name': 'missing', 'source': {'kind': 'url', 'url': 'http://127.0.0.1:9/a.safetensors?' + SECRET_QUERY}})['id']}", "failed")

    source = form("/v1/inputs", [("image", "apple.png", (PICTURES / "apple.png").read_bytes())])
    uri = "data:image/png;base64," + base64.b64encode((PICTURES / "bicycle.png").read_bytes()).decode()
    generation = {"prompt": "owl on a red background", "num_inference_steps": 2, "seed": 7}
    for more in (
        {"num_images": 2, "width": 64, "height": 64},
        {"loras": [{"model": "style", "scale": 0.8}], "guidance_scale": 2.0, "negative_prompt": "blue"},
        {"image": source["id"], "strength": 0.8, "preview_every": 1},
        {"image": uri, "mask": uri, "strength": 0.7},
    ):
        settled(f"/v1/generations/{call('POST', '/v1/generations', {**generation, **more})['id']}")
    deleted = call("POST", "/v1/generations", generation)
    settled(f"/v1/generations/{deleted['id']}")
    call("DELETE", f"/v1/generations/{deleted['id']}")
    worker = call("GET", "/v1/workers")["items"][0]
    call("POST", "/v1/models/ember/load", {"worker": worker["id"]})

    call("POST", "/v1/projects", {"name": "shop"})
    call("PATCH", "/v1/projects/shop", {"quotas": {"queued_jobs": 100}, "retention_days": 30})
    shop = {"Pyrograph-Project": "shop"}
    in_shop = call("POST", "/v1/generations", generation, shop)["id"]
    settled(f"/v1/generations/{in_shop}?project=shop")

    slow = {**generation, "num_inference_steps": 200, "num_images": 4, "width": 256, "height": 256, "preview_every": 1}
    running = call("POST", "/v1/generations", {**slow, "image": source["id"], "strength": 1.0})
    canceled = call("POST", "/v1/generations", slow)
    call("POST", f"/v1/generations/{canceled['id']}/cancel")
    call("POST", "/v1/generations", {**slow, "loras": [{"model": "style"}]})
    call("POST", "/v1/trainings", {**training, "name": "waiting"})
    while call("GET", f"/v1/generations/{running['id']}")["progress"]["step"] == 0:
        time.sleep(0.1)


def main():
    program, output = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        up = subprocess.Popen([program, "up", "--data-dir", folder / "data", "--bind", SERVER.removeprefix("http://")],
                              stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "PYROGRAPH_IMPORT_NETWORKS": "127.0.0.0/8"})
        cluster = None
        try:
            for _ in range(600):
                try:
                    if call("GET", "/v1/workers")["items"]:
                        break
                except OSError:
                    pass
                time.sleep(0.2)
            fill(folder)
            up.send_signal(signal.SIGKILL)
            up.wait()
            pid_file = next((folder / "data").rglob("postmaster.pid"))
            cluster = pid_file.parent
            port = pid_file.read_text().splitlines()[3].strip()
            password = next((folder / "data").rglob("*password*")).read_text().strip()
            dump = subprocess.run(
                ["pg_dump", "--host", "127.0.0.1", "--port", port, "--username", "pyrograph", "--no-owner", "--no-privileges",
                 "--inserts", "--rows-per-insert", "50", "pyrograph"],
                env={"PATH": "/usr/bin:/bin", "PGPASSWORD": password}, check=True, capture_output=True, text=True).stdout
        finally:
            up.kill()
            if cluster:
                subprocess.run(["kill", "-QUIT", (cluster / "postmaster.pid").read_text().split()[0]], check=False)
                time.sleep(1)
    # psql's own commands and session settings are of no use to a driver.
    lines = [line for line in dump.splitlines() if line and not line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.set_config"))]
    # Functions come before the tables that they name.
    pathlib.Path(output).write_text("\n".join(["SET check_function_bodies = false;", *lines]) + "\n")


if __name__ == "__main__":
    main()
