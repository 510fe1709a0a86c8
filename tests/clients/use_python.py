"""Uses the Python client that openapi-python-client generates from openapi/openapi.json.

Usage: use_python.py SERVER. `scripts/clients.sh` generates the client first; a journey starts the server and a worker.
"""

import io
import sys
import time

from pyrograph_client import Client
from pyrograph_client.api.datasets import add_images, create_dataset, get_dataset
from pyrograph_client.api.generations import create_generation, get_generation, list_generations
from pyrograph_client.api.models import get_model, inspect_model
from pyrograph_client.models import (
    DatasetRequest, Generation, GenerationRequest, ImagesForm, LoraRequest, ModelInspectionCheckpoint, Problem)
from pyrograph_client.types import File

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)

model = get_model.sync("tiny", client=client)
assert model.name == "tiny" and model.defaults, model
inspection = inspect_model.sync("tiny", client=client)
assert isinstance(inspection, ModelInspectionCheckpoint) and inspection.kind == "checkpoint", inspection

dataset = create_dataset.sync(client=client, body=DatasetRequest(name="discs"))
pictures = [File(io.BytesIO(open(path, "rb").read()), path, "image/png") for path in sys.argv[2:]]
added = add_images.sync(dataset.id, client=client, body=ImagesForm(image=pictures, caption=["one", "two"]))
assert [example.caption for example in added.items] == ["one", "two"], added
assert len(get_dataset.sync(dataset.id, client=client).examples) == 2

request = GenerationRequest(prompt="an owl", model="tiny", num_inference_steps=1, width=32, height=32)
generation = create_generation.sync(client=client, body=request)
until = time.monotonic() + 60
while generation.status in ("queued", "running") and time.monotonic() < until:
    time.sleep(0.2)
    generation = get_generation.sync(generation.id, client=client)
assert isinstance(generation, Generation) and generation.status == "succeeded", generation
assert generation.artifacts[0].width == 32, generation.artifacts
assert generation.id in [listed.id for listed in list_generations.sync(client=client).items]

refused = create_generation.sync(client=client, body=GenerationRequest(prompt="x", loras=[LoraRequest(model="none")]))
assert isinstance(refused, Problem) and refused.errors[0].field.startswith("loras"), refused
print("the Python client works")
