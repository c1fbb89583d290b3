"""The OpenAPI and AsyncAPI documents, made by the code of the services without Kafka, MongoDB or a port."""

import asyncio
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from services.gateway.api.documents import merge_openapi
from shared.contracts.routes import SERVICE_PATHS
from shared.runtime.configuration import Configuration
from shared.runtime.encryption_keys import open_vault
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.service import Runtime
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from shared.runtime.web.access import Keyring

SERVICES_WITH_API: Final = ("gateway", *SERVICE_PATHS)
_ENVIRONMENT: Final = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "MONGODB_URI": "mongodb://127.0.0.1:9/interlink",
    "INTERLINK_PUBLIC_URL": "https://hub.example.com",
    "INTERLINK_ENCRYPTION_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
}
"""Settings that a service needs to be constructed. Nothing connects to these addresses."""


@dataclass(frozen=True, slots=True)
class ApiDocument:
    """A document, and its text as the site offers it."""

    document: Mapping[str, Any]

    @property
    def text(self) -> str:
        return json.dumps(self.document, indent=1, ensure_ascii=False) + "\n"


def asyncapi_document() -> ApiDocument:
    """Return the AsyncAPI document, as `/api/asyncapi.json` answers it."""
    with _environment():
        return ApiDocument(asyncio.run(_document("gateway", "/api/asyncapi.json")))


def openapi_document() -> ApiDocument:
    """Return the OpenAPI document of all services, as `/api/openapi.json` of a whole hub answers it."""
    with _environment():
        return ApiDocument(asyncio.run(_merged()))


@contextmanager
def _environment() -> Iterator[None]:
    """Replace the environment for a while, so that every machine builds the same pages."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def _merged() -> dict[str, Any]:
    gateway = await _document("gateway", "/api/openapi.json")
    peers = {name: await _document(name, f"/openapi/{name}.json") for name in SERVICES_WITH_API[1:]}
    return merge_openapi(gateway, peers)


async def _document(service: str, path: str) -> dict[str, Any]:
    here = _runtime(service)
    try:
        built = await importlib.import_module(f"services.{service}.app").build(here)
        transport = httpx.ASGITransport(app=built.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://docs") as client:
            return dict((await client.get(path)).raise_for_status().json())
    finally:
        here.mongo.close()


def _runtime(name: str) -> Runtime:
    """Return what `shared.runtime.service.runtime` gives a service, without connecting to anything."""
    hub, kafka = load(HubSettings), load(KafkaSettings)
    log = configure(name, "error")
    vault, mongo = open_vault(hub), Mongo(load(MongoSettings), app="docs")
    configuration = Configuration(mongo, log)
    producer = Producer(kafka, log, client_id="docs")
    keyring = Keyring(mongo, configuration, vault, log)
    return Runtime(name, hub, kafka, log, mongo, configuration, producer, keyring, vault)
