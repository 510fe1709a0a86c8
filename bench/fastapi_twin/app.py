"""POST and GET /v1/generations as one would write them in FastAPI with asyncpg: the same tables, the
same checks, the same answer, one statement for each request. Models are cached and the doorbell is coalesced, as in our service, which
also lets requests that come together share a statement.

    DATABASE_URL=… uvicorn app:app --workers 2
"""

import asyncio
import json
import os
import secrets
import time
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

CREATE = """
WITH needed AS (
  SELECT id FROM models WHERE id = ANY($1) AND deleted_at IS NULL FOR KEY SHARE
), job AS (
  INSERT INTO jobs (id, kind, total_steps, last_sequence)
  SELECT $2, 'generation', $3, 1 WHERE (SELECT count(*) FROM needed) = cardinality($1)
  RETURNING id, created_at
), queued AS (
  INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job
), generation AS (
  INSERT INTO generations (id, job_id, model_id, params, seed, created_at) SELECT $4, id, $5, $6, $7, created_at FROM job
  RETURNING id, created_at
), lora AS (
  INSERT INTO generation_loras (generation_id, position, model_id, scale)
  SELECT generation.id, (l.position - 1)::int, l.model_id, l.scale
  FROM generation, unnest($8::uuid[], $9::float8[]) WITH ORDINALITY AS l(model_id, scale, position)
)
SELECT created_at FROM generation
"""
GET = """
SELECT g.id, g.job_id, g.model_id, m.name AS model_name, g.params, g.seed, g.warnings,
       coalesce((SELECT jsonb_agg(jsonb_build_object('model', jsonb_build_object('id', l.model_id, 'name', n.name), 'scale', l.scale)
                                  ORDER BY l.position)
                 FROM generation_loras l JOIN models n ON n.id = l.model_id WHERE l.generation_id = g.id), '[]') AS loras,
       coalesce((SELECT jsonb_agg(to_jsonb(a) ORDER BY a.position) FROM artifacts a WHERE a.job_id = g.job_id), '[]') AS artifacts,
       j.status, j.step, j.total_steps, j.progress, j.epoch, j.error_class, j.error_message,
       g.created_at, j.started_at, j.finished_at
FROM generations g JOIN jobs j ON j.id = g.job_id JOIN models m ON m.id = g.model_id
WHERE g.deleted_at IS NULL AND g.id = $1
"""
QUIET_SECONDS = 0.01

Side = Annotated[int, Field(ge=16, le=2048, multiple_of=16)]
Scale = Annotated[float, Field(ge=0, le=30)]


class LoraRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    scale: float = Field(1.0, ge=-10, le=10)


class GenerationRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(min_length=1, max_length=10_000)
    negative_prompt: str | None = Field(None, max_length=10_000)
    model: str = "ember"
    loras: list[LoraRequest] = Field([], max_length=8)
    num_images: int = Field(1, ge=1, le=4)
    num_inference_steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    width: Side | None = None
    height: Side | None = None
    seed: int | None = Field(None, ge=-1, le=2**63 - 1)


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


class Generation(BaseModel):
    id: UUID
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    model: ModelRef
    loras: list[LoraUse]
    prompt: str
    negative_prompt: str | None
    num_images: int
    num_inference_steps: int
    guidance_scale: float
    true_cfg_scale: float
    width: int
    height: int
    seed: int
    progress: Progress
    attempts: int
    artifacts: list[dict]
    warnings: list[str]
    error: dict | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: Urls


class Doorbell:
    """At most one NOTIFY in ten milliseconds."""

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
    rows = await app.pool.fetch("SELECT id, name, kind, defaults FROM models WHERE deleted_at IS NULL")
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


def find(name, kind):
    model = app.models.get(name)
    if model is None:
        raise HTTPException(404, f"There is no model {name}.")
    if model["kind"] != kind:
        raise HTTPException(422, f"{name} is no {kind}.")
    return model


def urls(id):
    path = f"/v1/generations/{id}"
    return Urls(self=path, cancel=f"{path}/cancel", events=f"{path}/events")


@app.post("/v1/generations", status_code=202, response_model=Generation)
async def create(request: GenerationRequest, response: Response):
    model = find(request.model, "checkpoint")
    loras = [(find(lora.model, "lora"), lora.scale) for lora in request.loras]
    defaults = model["defaults"]
    params = {
        "prompt": request.prompt, "negative_prompt": request.negative_prompt, "num_images": request.num_images,
        **{name: defaults[name] if (value := getattr(request, name)) is None else value
           for name in ("num_inference_steps", "guidance_scale", "true_cfg_scale", "width", "height")},
    }
    seed = secrets.randbits(32) if request.seed in (None, -1) else request.seed
    id, job = uuid7(), uuid7()
    needed = sorted({model["id"], *(lora["id"] for lora, _ in loras)})
    created_at = await app.pool.fetchval(
        CREATE, needed, job, params["num_inference_steps"], id, model["id"], params, seed,
        [lora["id"] for lora, _ in loras], [scale for _, scale in loras])
    if created_at is None:
        raise HTTPException(404, "A model of this request was deleted just now.")
    app.doorbell.ring()
    response.headers["Location"] = f"/v1/generations/{id}"
    return Generation(
        id=id, status="queued", model=ModelRef(id=model["id"], name=model["name"]),
        loras=[LoraUse(model=ModelRef(id=lora["id"], name=lora["name"]), scale=scale) for lora, scale in loras],
        **params, seed=seed, progress=Progress(step=0, total_steps=params["num_inference_steps"]), attempts=0, artifacts=[],
        warnings=[], error=None, created_at=created_at, started_at=None, finished_at=None, urls=urls(id))


@app.get("/v1/generations/{id}", response_model=Generation)
async def get(id: UUID):
    row = await app.pool.fetchrow(GET, id)
    if row is None:
        raise HTTPException(404, f"There is no generation {id}.")
    error = {"class": row["error_class"], "message": row["error_message"]} if row["error_class"] else None
    return Generation(
        id=id, status=row["status"], model=ModelRef(id=row["model_id"], name=row["model_name"]), loras=row["loras"],
        **row["params"], seed=row["seed"], progress=Progress(step=row["step"], total_steps=row["total_steps"]),
        attempts=row["epoch"], artifacts=row["artifacts"], warnings=row["warnings"], error=error,
        created_at=row["created_at"], started_at=row["started_at"], finished_at=row["finished_at"], urls=urls(id))
