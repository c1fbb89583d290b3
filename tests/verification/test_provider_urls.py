"""Which URLs in a request are the provider's: where keys are fetched and subscriptions confirmed."""

import pytest

from shared.verification.provider_urls import MAX_WITH_QUERY_CHARACTERS, allowed_url

HOSTS = ("sns.{region}.amazonaws.com", "keys.example.com")


@pytest.mark.parametrize(
    "url",
    [
        "https://keys.example.com/",
        "https://sns.us-east-1.amazonaws.com/cert.pem",
        "https://sns.us-gov-west-1.amazonaws.com/",
        "https://sns.ap-southeast-5.amazonaws.com/a/b.pem",
        "https://sns.us-iso-east-1.amazonaws.com/",
    ],
)
def test_a_url_of_the_provider(url: str) -> None:
    assert allowed_url(url, HOSTS) == url


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "http://keys.example.com/",
        "https://keys.example.com",
        "https://KEYS.example.com/",
        "https://keysxexample.com/",
        "https://keys.example.com.evil.example/",
        "https://evil.example/https://keys.example.com/",
        "https://evil.example#keys.example.com/",
        "https://keys.example.com@evil.example/",
        "https://user:password@keys.example.com/",
        "https://keys.example.com:8443/",
        "https://keys.example.com/../a",
        "https://keys.example.com/%2e%2e/a",
        "https://keys.example.com/?a=b",
        "https://keys.example.com/\\evil.example/",
        "https://keys.example.com/\n",
        "https://keys.example.com/" + "a" * MAX_WITH_QUERY_CHARACTERS,
        "https://sns.{region}.amazonaws.com/",
        "https://sns.amazonaws.com/",
        "https://sns..amazonaws.com/",
        # The owner of a bucket called sns could publish a certificate there.
        "https://sns.s3.amazonaws.com/",
        "https://sns.s3-us-west-2.amazonaws.com/",
        "https://sns.s3.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.s3.amazonaws.com/",
        "https://evil.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com.evil.example/",
        "https://sns.us-west-2.evil.example/",
        "https://snsxus-west-2.amazonaws.com/",
    ],
)
def test_a_url_of_somebody_else(url: str | None) -> None:
    assert allowed_url(url, HOSTS) is None
    assert allowed_url(url, HOSTS, with_query=True) in (None, "https://keys.example.com/?a=b")


def test_the_path_and_the_query_of_a_url() -> None:
    url = "https://sns.us-west-2.amazonaws.com/?Action=Confirm&TopicArn=arn:aws:sns:us-west-2:1:a&Token=2a"
    assert allowed_url(url, HOSTS) is None
    assert allowed_url(url, HOSTS, with_query=True) == url
    assert allowed_url("https://keys.example.com/v1/key", HOSTS, "/v1/")
    assert allowed_url("https://keys.example.com/v2/key", HOSTS, "/v1/") is None
    assert allowed_url("https://keys.example.com/?a=https://b#c", HOSTS, with_query=True) is None
