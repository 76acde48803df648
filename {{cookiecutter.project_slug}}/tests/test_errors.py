"""Every error has the one format, and repeats nothing of the request."""

import pytest
from fastapi.testclient import TestClient

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", b"", 404),
        ("GET", "/items", b"", 404),
        ("DELETE", "/", b"", 405),
        ("POST", "/items/", b"\xff\xfe{", 400),
        ("POST", "/items/", b"x" * 2_000_000, 413),
        ("GET", "/items/secret", b"", 422),
        ("POST", "/items/", b"secret", 422),
        ("POST", "/items/", b'{"name": "secret"}', 422),
        ("POST", "/items/", b'{"name": "a", "price": NaN}', 422),
        ("POST", "/items/", b'{"name": "a", "price": 1, "\\ud800": 1}', 422),
    ],
)
def test_a_bad_request_is_told_so_in_one_format(
    method: str, path: str, body: bytes, status: int, client: TestClient
) -> None:
    answer = client.request(method, path, content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"detail"}
    assert "secret" not in answer.text


def test_a_method_that_a_path_does_not_have_is_refused_with_all_that_it_has(
    client: TestClient,
) -> None:
    @client.app.put("/health")  # type: ignore[attr-defined, untyped-decorator]
    async def put_health() -> None: ...

    for method in "TRACE", "PROPFIND", "DELETE":
        answer = client.request(method, "/health")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, PUT"
        assert answer.json() == {"detail": "Method Not Allowed"}


def test_json_that_is_nested_too_deep_is_refused(client: TestClient) -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    # Some versions of Python cannot read it, others find that it is no item.
    assert client.post("/items/", content=deep, headers=JSON).status_code in {400, 422}


def test_every_answer_that_an_endpoint_can_give_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    always = {"400", "413", "500", "503"}
    assert paths["/"]["get"]["responses"].keys() == {"200", *always}
