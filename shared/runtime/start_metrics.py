"""The metrics that stay as they are while a process runs: version, and age of keys and certificates."""

from pathlib import Path

from cryptography import x509
from pymongo.uri_parser import parse_uri

from shared.runtime import metrics
from shared.runtime.encryption_keys import first_used_at
from shared.runtime.mongo import Mongo
from shared.runtime.secrets import Vault
from shared.runtime.settings import KafkaSettings, MongoSettings, load
from shared.runtime.version import VERSION


async def set_start_metrics(
    service: str, worker: int, mongo: Mongo, vault: Vault, kafka: KafkaSettings
) -> None:
    """Set the metrics of a process that starts; `worker` is its number. Raises `DatabaseUnavailable`."""
    metrics.WORKSPACE_USAGE.worker = worker
    metrics.BUILD_INFO.labels(service, VERSION).set(1)
    first_used = await first_used_at(mongo, vault.current)
    metrics.ENCRYPTION_KEY_FIRST_USED.set(first_used.timestamp())
    if kafka.ssl_cafile:
        watch_authorities("KAFKA_SSL_CAFILE", kafka.ssl_cafile)
    if kafka.ssl_certfile:
        watch_chain("KAFKA_SSL_CERTFILE", kafka.ssl_certfile)
    options = parse_uri(load(MongoSettings).uri.get_secret_value(), validate=False)["options"]
    for option, watch in (("tlsCAFile", watch_authorities), ("tlsCertificateKeyFile", watch_chain)):
        if file := options.get(option):
            watch(f"MONGODB_URI {option}", Path(file))


def watch_authorities(setting: str, file: Path) -> None:
    """Set the metric to the end of the last authority: a file has the old one beside the new one at times.

    A file that cannot be read sets nothing: the connection that needs it reports that.
    """
    if ends := _ends(file):
        metrics.CERTIFICATE_EXPIRY.labels(setting).set(max(ends))


def watch_chain(setting: str, file: Path) -> None:
    """Set the metric to the end of the first certificate of a chain that ends; see `watch_authorities`."""
    if ends := _ends(file):
        metrics.CERTIFICATE_EXPIRY.labels(setting).set(min(ends))


def _ends(file: Path) -> list[float]:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return []
    return [certificate.not_valid_after_utc.timestamp() for certificate in certificates]
