"""POST and GET /v1/generations as one would write them in FastAPI with asyncpg: the same tables, checks and answers,
with one statement per request. Models are cached and notifications are coalesced, as in our service, which also batches
concurrent requests into one statement.

The twin has no object storage, so it checks `image` and `mask` but answers 501 to a request that has them. LoRAs that
a prompt names are read with one weight, and there are no warnings about settings without effect.

To add a field to generations, extend `GenerationRequest`, `Params` and `parse`; the answer inherits it from `Params`.

    DATABASE_URL=… uvicorn app:app --workers 2
"""

import asyncio
import json
import math
import os
import re
import secrets
import time
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

# The project `default`. With one project, the service need not check the owner of a row, but the tables require one.
PROJECT = UUID("00000000-0000-7000-8000-000000000000")
CREATE = """
WITH needed AS (
  SELECT id, sha256 FROM models WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR KEY SHARE
), job AS (
  INSERT INTO jobs (id, subject, project_id, kind, total_steps, last_sequence, base_sha256)
  SELECT $2, $4, $10, 'generation', $3, 1, sha256 FROM needed
  WHERE id = $5 AND (SELECT count(*) FROM needed) = cardinality($1)
  RETURNING id, created_at
), queued AS (
  INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job
), need AS (
  INSERT INTO job_needs (job_id, model_id) SELECT job.id, needed.id FROM job, needed
), generation AS (
  INSERT INTO generations (id, project_id, job_id, model_id, params, seed, response_format, created_at)
  SELECT $4, $10, id, $5, $6, $7, $11, created_at FROM job
  RETURNING id, created_at
), lora AS (
  INSERT INTO generation_loras (generation_id, position, model_id, scale)
  SELECT generation.id, (l.position - 1)::int, l.model_id, l.scale
  FROM generation, unnest($8::uuid[], $9::float8[]) WITH ORDINALITY AS l(model_id, scale, position)
)
SELECT created_at FROM generation
"""
GET = """
SELECT g.id, g.job_id, g.model_id, m.name AS model_name, g.params, g.seed, g.response_format, g.warnings,
       coalesce((SELECT jsonb_agg(jsonb_build_object('model', jsonb_build_object('id', l.model_id, 'name', n.name),
                                                     'scale', l.scale) ORDER BY l.position)
                 FROM generation_loras l JOIN models n ON n.id = l.model_id
                 WHERE l.generation_id = g.id), '[]') AS loras,
       coalesce((SELECT jsonb_agg(to_jsonb(a) || jsonb_build_object('delivery', to_jsonb(d)) ORDER BY a.position)
                 FROM artifacts a
                 LEFT JOIN deliveries d ON d.job_id = a.job_id AND d.target = 'upload' AND d.position = a.position
                 WHERE a.job_id = g.job_id), '[]')
         AS artifacts,
       (SELECT coalesce(sum(t.gpu_seconds), 0) FROM attempts t WHERE t.job_id = g.job_id) AS gpu_seconds,
       j.status, j.step, j.total_steps, j.progress, j.epoch, j.error_class, j.error_message,
       g.created_at, j.started_at, j.finished_at
FROM generations g JOIN jobs j ON j.id = g.job_id JOIN models m ON m.id = g.model_id
WHERE g.deleted_at IS NULL AND g.id = $1 AND g.project_id = $2
"""
QUIET_SECONDS = 0.01

# Our name, A1111's, and diffusers' class where it alone identifies the solver.
SCHEDULERS = [
    ("ddim", "DDIM", "DDIMScheduler"),
    ("pndm", "PLMS", "PNDMScheduler"),
    ("euler", "Euler", "EulerDiscreteScheduler"),
    ("euler_ancestral", "Euler a", "EulerAncestralDiscreteScheduler"),
    ("dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler"),
    ("dpmpp_2m_karras", "DPM++ 2M Karras"),
    ("dpmpp_2m_sde", "DPM++ 2M SDE"),
    ("dpmpp_2m_sde_karras", "DPM++ 2M SDE Karras"),
    ("unipc", "UniPC", "UniPCMultistepScheduler"),
    ("lcm", "LCM", "LCMScheduler"),
    ("flow_match_euler", "Flow Match Euler", "FlowMatchEulerDiscreteScheduler"),
]
TAG = re.compile(r"<(?:lora|lyco):([^:>]+)(?::([-+.0-9]+))?>")
SCHEDULER_OF = {name.lower(): names[0] for names in SCHEDULERS for name in names}

Side = Annotated[int, Field(ge=16, le=2048, multiple_of=8)]
Scale = Annotated[float, Field(ge=0, le=30)]
Picture = Annotated[str, Field(min_length=1, max_length=12_000_000, pattern=r"^[A-Za-z0-9:/;,+=.-]+$")]


class LoraRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    scale: float = Field(1.0, ge=-10, le=10)


class GenerationRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")
    negative_prompt: str | None = Field(None, max_length=10_000, pattern=r"^[^\x00]*$")
    prompt_syntax: Literal["a1111", "plain"] = "a1111"
    model: str = "ember"
    loras: list[LoraRequest] = Field([], max_length=8)
    num_images: int = Field(1, ge=1, le=4)
    image: Picture | None = None
    mask: Picture | None = None
    strength: float | None = Field(None, ge=0, le=1)
    scheduler: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9+ _-]+$")
    clip_skip: int | None = Field(None, ge=0, le=11)
    num_inference_steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    width: Side | None = None
    height: Side | None = None
    seed: int | None = Field(None, ge=-1, le=2**63 - 1)
    preview_every: int | None = Field(None, ge=1, le=200)
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_quality: int | None = Field(None, ge=1, le=100)
    response_format: Literal["url", "b64_json"] = "url"


class ModelRef(BaseModel):
    id: UUID
    name: str


class LoraUse(BaseModel):
    model: ModelRef
    scale: float


class Progress(BaseModel):
    step: int
    total_steps: int


class Urls(BaseModel):
    self: str
    cancel: str
    events: str


class SourceImage(BaseModel):
    input: UUID | None
    url: str
    sha256: str
    width: int
    height: int


class Params(BaseModel):
    """Valid parameters with the model's defaults filled in: a column of the row and a part of the answer."""

    prompt: str
    negative_prompt: str | None
    prompt_syntax: str = "a1111"
    num_images: int
    num_inference_steps: int
    guidance_scale: float
    true_cfg_scale: float
    width: int
    height: int
    image: SourceImage | None = None
    mask: SourceImage | None = None
    strength: float | None = None
    scheduler: str | None = None
    clip_skip: int | None = None
    preview_every: int | None = None
    output_format: str = "png"
    output_quality: int | None = None


class Usage(BaseModel):
    gpu_seconds: float
    bytes: int


class Generation(Params):
    id: UUID
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    model: ModelRef
    loras: list[LoraUse]
    seed: int
    response_format: str
    progress: Progress
    attempts: int
    artifacts: list[dict]
    warnings: list[str]
    error: dict | None
    usage: Usage
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: Urls


class Doorbell:
    """Sends at most one NOTIFY every ten milliseconds."""

    def __init__(self, pool):
        self.pool, self.ringing = pool, False

    def ring(self):
        if not self.ringing:
            self.ringing = True
            asyncio.get_running_loop().create_task(self.notify())

    async def notify(self):
        await asyncio.sleep(QUIET_SECONDS)
        self.ringing = False
        await self.pool.execute("SELECT pg_notify('pyrograph_jobs', '')")


async def json_codec(connection):
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


@asynccontextmanager
async def lifespan(app):
    app.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=8, max_size=8, init=json_codec)
    rows = await app.pool.fetch(
        "SELECT id, name, kind, family, defaults FROM models WHERE deleted_at IS NULL AND project_id = $1", PROJECT)
    app.models = {row["name"]: row for row in rows}
    app.doorbell = Doorbell(app.pool)
    yield
    await app.pool.close()


app = FastAPI(lifespan=lifespan)


def uuid7():
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | secrets.randbits(80)
    number = (number & ~(0xF << 76)) | (7 << 76)
    return UUID(int=(number & ~(0x3 << 62)) | (0x2 << 62))


def invalid(field, message):
    return HTTPException(422, {"field": field, "message": message})


def find(name, kind):
    model = app.models.get(name)
    if model is None:
        raise HTTPException(404, f"There is no model {name}.")
    if model["kind"] != kind:
        raise invalid("model", f"{name} is not a {kind}.")
    return model


def parse(request, model):
    """The parameters of a request except the seed, each checked against the model."""
    defaults, is_flux = model["defaults"], model["family"] == "flux"

    def given(name):
        value = getattr(request, name)
        return defaults[name] if value is None else value

    if request.image is None:
        for field in ("mask", "strength"):
            if getattr(request, field) is not None:
                raise invalid(field, "It applies to `image`, which is missing.")
    if is_flux and request.clip_skip is not None:
        raise invalid("clip_skip", "FLUX.1 does not use the hidden layers of CLIP.")
    if not is_flux and request.true_cfg_scale is not None:
        raise invalid("true_cfg_scale", "The model is not distilled; use `guidance_scale`.")
    steps, strength = given("num_inference_steps"), None
    if request.image is not None:
        usual = defaults.get("strength", 0.8) if request.mask is None else 1.0
        strength = usual if request.strength is None else request.strength
        if (math.ceil if is_flux else math.floor)(steps * strength) < 1:
            raise invalid("strength", f"{strength} leaves none of {steps} steps.")
    multiple = max(8, defaults["size_multiple"])
    for side in ("width", "height"):
        if (getattr(request, side) or 0) % multiple:
            raise invalid(side, f"It is not a multiple of {multiple}.")
    scheduler = None
    if request.scheduler is not None:
        scheduler = SCHEDULER_OF.get(request.scheduler.lower())
        if scheduler is None:
            raise invalid("scheduler", f"There is no `{request.scheduler}`.")
        if (scheduler == "flow_match_euler") != is_flux:
            raise invalid("scheduler", f"Models of the family {model['family']} do not support it.")
    quality = request.output_quality
    if request.output_format == "png" and quality is not None:
        raise invalid("output_quality", "PNG is lossless.")
    if request.output_format != "png" and quality is None:
        quality = 90
    if request.image is not None:
        raise HTTPException(501, "The twin has no object storage.")
    return Params(
        prompt=request.prompt, negative_prompt=request.negative_prompt, prompt_syntax=request.prompt_syntax,
        num_images=request.num_images, num_inference_steps=steps,
        guidance_scale=given("guidance_scale"), true_cfg_scale=given("true_cfg_scale"),
        width=given("width"), height=given("height"), strength=strength, scheduler=scheduler,
        clip_skip=request.clip_skip, preview_every=request.preview_every, output_format=request.output_format,
        output_quality=quality)


def urls(id):
    path = f"/v1/generations/{id}"
    return Urls(self=path, cancel=f"{path}/cancel", events=f"{path}/events")


@app.post("/v1/generations", status_code=202, response_model=Generation)
async def create(request: GenerationRequest, response: Response):
    model = find(request.model, "checkpoint")
    loras = [(find(lora.model, "lora"), lora.scale) for lora in request.loras]
    if request.prompt_syntax == "a1111":
        loras += [(find(name, "lora"), float(weight or 1)) for name, weight in TAG.findall(request.prompt)]
    if any(lora["family"] != model["family"] for lora, _ in loras):
        raise invalid("loras", "A LoRA is of another family than the model.")
    params = parse(request, model)
    seed = secrets.randbits(32) if request.seed in (None, -1) else request.seed
    id = uuid7()
    needed = sorted({model["id"], *(lora["id"] for lora, _ in loras)})
    steps = params.num_inference_steps * params.num_images
    created_at = await app.pool.fetchval(
        CREATE, needed, id, steps, id, model["id"], params.model_dump(mode="json"), seed,
        [lora["id"] for lora, _ in loras], [scale for _, scale in loras], PROJECT, request.response_format)
    if created_at is None:
        raise HTTPException(404, "A model of this request was deleted just now.")
    app.doorbell.ring()
    response.headers["Location"] = f"/v1/generations/{id}"
    return Generation(
        id=id, status="queued", model=ModelRef(id=model["id"], name=model["name"]),
        loras=[LoraUse(model=ModelRef(id=lora["id"], name=lora["name"]), scale=scale) for lora, scale in loras],
        **params.__dict__, seed=seed, response_format=request.response_format,
        progress=Progress(step=0, total_steps=steps), attempts=0,
        artifacts=[], warnings=[], error=None, usage=Usage(gpu_seconds=0, bytes=0),
        created_at=created_at, started_at=None, finished_at=None, urls=urls(id))


@app.get("/v1/generations/{id}", response_model=Generation)
async def get(id: UUID):
    row = await app.pool.fetchrow(GET, id, PROJECT)
    if row is None:
        raise HTTPException(404, f"There is no generation {id}.")
    error = {"class": row["error_class"], "message": row["error_message"]} if row["error_class"] else None
    return Generation(
        id=id, status=row["status"], model=ModelRef(id=row["model_id"], name=row["model_name"]), loras=row["loras"],
        **row["params"], seed=row["seed"], response_format=row["response_format"],
        progress=Progress(step=row["step"], total_steps=row["total_steps"]),
        attempts=row["epoch"], artifacts=row["artifacts"], warnings=row["warnings"], error=error,
        usage=Usage(gpu_seconds=row["gpu_seconds"], bytes=sum(one["bytes"] for one in row["artifacts"])),
        created_at=row["created_at"], started_at=row["started_at"], finished_at=row["finished_at"], urls=urls(id))
