"""Amazon SNS signs the messages of everybody's topics: only those of the endpoint's topic are accepted."""

import json
from typing import Any, Final

import pytest

from interlink.provider.fixture_result import FIXTURE_TIME
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from tests.providers.recorded import Keyed, keyed, provider, recorded, signed

_TOPIC: Final = "arn:aws:sns:us-west-2:123456789012:MyTopic"
_ANOTHER: Final = "arn:aws:sns:us-west-2:666666666666:Attack"


def _case() -> tuple[Keyed, dict[str, Any]]:
    """Return the scheme of a notification without a subject, and such a message."""
    [fixture] = [each for each in recorded("aws-sns") if each.name == "notification_without_subject"]
    [case] = [each for each in keyed("aws-sns") if signed(each, fixture) is not None]
    return case, json.loads(fixture.body)


def _request(message: dict[str, Any]) -> InboundRequest:
    definition = provider("aws-sns").definition
    assert definition
    settings = {"topic_arn": _TOPIC}
    return definition.request(
        "POST", "https://hub.example.com/x", b"", {}, json.dumps(message).encode(), settings
    )


def _signed_by_sns(case: Keyed, message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as SNS signs and sends it now."""
    request = case.signer.scheme.sign(_request(message), case.signer.key, FIXTURE_TIME)
    signed_message: dict[str, Any] = json.loads(request.body)
    return signed_message


def test_a_message_of_the_topic_is_verified() -> None:
    case, message = _case()
    ours = _signed_by_sns(case, message)
    assert case.verdict(_request(ours)) is VerificationResult.VERIFIED


def test_a_message_of_another_topic_is_refused() -> None:
    case, message = _case()
    theirs = _signed_by_sns(case, {**message, "TopicArn": _ANOTHER})
    assert case.verdict(_request(theirs)) is VerificationResult.UNREADABLE
    assert case.verdict(_request({**theirs, "TopicArn": _TOPIC})) is VerificationResult.MISMATCH


@pytest.mark.parametrize("kind", ["Notification", "SubscriptionConfirmation"])
def test_the_message_of_another_topic_cannot_be_read_as_one_of_ours(kind: str) -> None:
    """The signed text is names and values in lines, and a value may have lines of its own.

    So somebody can publish a text, to a topic of his own, that reads like the fields of a message of ours.
    What SNS signs behind it has to become a part of the last field.
    """
    case, message = _case()
    forged = {**message, "Message": '{"AlarmName":"forged","NewStateValue":"ALARM"}', "MessageId": "forged"}
    start = f"{forged['Message']}\nMessageId\n{forged['MessageId']}\nTimestamp\n"
    start += f"2027-01-15T08:00:00Z\nTopicArn\n{_TOPIC}\nType\n{kind}"
    real = _signed_by_sns(case, {**message, "Message": start, "TopicArn": _ANOTHER})
    rest = f"\nMessageId\n{real['MessageId']}\nTimestamp\n{real['Timestamp']}"
    rest += f"\nTopicArn\n{_ANOTHER}\nType\nNotification"
    attempt = {
        **real,
        "Message": forged["Message"],
        "MessageId": "forged",
        "Timestamp": "2027-01-15T08:00:00Z",
        "TopicArn": _TOPIC,
        "Type": kind + rest,
    }
    inbound = _request(attempt)
    # The control: SNS did sign this text.
    assert case.signer.scheme.signed.content(inbound) == case.signer.scheme.signed.content(_request(real))  # type: ignore[attr-defined]
    assert case.verdict(inbound) is VerificationResult.UNREADABLE
