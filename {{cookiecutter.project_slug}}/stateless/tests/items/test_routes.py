"""Items over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient


def test_an_item_is_read_with_its_id(client: TestClient) -> None:
    answer = client.get("/items/42")
    assert answer.status_code == 200
    assert answer.json() == {"item_id": 42, "name": "Item 42", "price": 10.5, "is_offer": False}


def test_a_query_puts_it_on_offer(client: TestClient) -> None:
    assert client.get("/items/42", params={"q": "sale"}).json()["is_offer"] is True


def test_an_item_is_created(client: TestClient) -> None:
    answer = client.post("/items/", json={"name": "Lamp", "price": 12})
    assert answer.status_code == 201
    assert answer.json() == {
        "message": "Item created successfully",
        "item": {"name": "Lamp", "price": 12, "is_offer": None},
    }


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"price": -1}, "price"),
        ({"price": "12"}, "price"),
        ({"price": True}, "price"),
        ({"is_offer": "yes"}, "is_offer"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_bad_item_is_refused(change: dict[str, Any], where: str, client: TestClient) -> None:
    answer = client.post("/items/", json={"name": "Lamp", "price": 12} | change)
    assert answer.status_code == 422
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", where]]


def test_every_answer_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "422" in paths["/items/{item_id}"]["get"]["responses"]
    assert {"201", "422"} <= paths["/items/"]["post"]["responses"].keys()


@pytest.mark.parametrize("item_id", ["0", "-1", "x", str(2**63)])
def test_a_bad_id_is_refused(item_id: str, client: TestClient) -> None:
    assert client.get(f"/items/{item_id}").status_code == 422
