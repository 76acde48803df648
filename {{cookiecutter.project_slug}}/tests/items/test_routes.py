"""Items over HTTP, kept in a real database."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

LAMP = {"name": "Lamp", "price": "12.50", "is_offer": None}


def create(client: TestClient, **item: object) -> int:
    """Create an item; return its id."""
    answer = client.post("/items/", json={"name": "Lamp", "price": 1} | item)
    assert answer.status_code == 201
    return int(answer.json()["item"]["item_id"])


def test_a_created_item_can_be_read_at_its_location(client: TestClient) -> None:
    answer = client.post("/items/", json={"name": "Lamp", "price": 12.5})
    assert answer.status_code == 201
    assert answer.json()["message"] == "Item created successfully"
    item = answer.json()["item"]
    assert item == LAMP | {"item_id": item["item_id"]}
    assert answer.headers["location"] == f"/items/{item['item_id']}"
    assert client.get(answer.headers["location"]).json() == item


def test_behind_a_prefix_the_location_has_it(settings: Settings) -> None:
    with TestClient(create_app(settings), root_path="/shop") as client:
        answer = client.post("/items/", json=LAMP)
    assert answer.headers["location"].startswith("/shop/items/")


@pytest.mark.parametrize("price", ["0.10", "9999999999.99", "0.00", "1234567890.12"])
def test_a_price_comes_back_exactly(price: str, client: TestClient) -> None:
    item_id = create(client, price=price)
    assert client.get(f"/items/{item_id}").json()["price"] == price


@pytest.mark.parametrize(
    ("price", "kept"),
    [(12, "12.00"), (0.1, "0.10"), (0.1 + 0.2, "0.30"), (-0.0, "0.00"), ("7", "7.00")],
)
def test_a_price_has_one_form(price: float | str, kept: str, client: TestClient) -> None:
    item_id = create(client, price=price)
    assert client.get(f"/items/{item_id}").json()["price"] == kept


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"price": -1}, "price"),
        ({"price": "0.001"}, "price"),
        ({"price": 1e10}, "price"),
        ({"price": "1e3"}, "price"),
        ({"price": " 1"}, "price"),
        ({"price": "1\n"}, "price"),
        ({"price": True}, "price"),
        ({"price": None}, "price"),
        ({"is_offer": "yes"}, "is_offer"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_bad_item_is_refused(change: dict[str, Any], where: str, client: TestClient) -> None:
    item = {"name": "Lamp", "price": 12} | change
    for answer in (client.post("/items/", json=item), client.put("/items/1", json=item)):
        assert answer.status_code == 422
        assert {problem["loc"][1] for problem in answer.json()["detail"]} == {where}


@pytest.mark.parametrize("item_id", ["0", "-1", "x", str(2**63)])
def test_a_bad_id_is_refused(item_id: str, client: TestClient) -> None:
    assert client.get(f"/items/{item_id}").status_code == 422


def test_a_missing_item_is_not_found(client: TestClient) -> None:
    item_id = create(client)
    assert client.delete(f"/items/{item_id}").status_code == 204
    for answer in (
        client.get(f"/items/{item_id}"),
        client.put(f"/items/{item_id}", json=LAMP),
        client.delete(f"/items/{item_id}"),
        client.get(f"/items/{2**63 - 1}"),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"detail": "No such item"}


def test_an_item_is_replaced(client: TestClient) -> None:
    item_id, other = create(client, is_offer=True), create(client)
    answer = client.put(f"/items/{item_id}", json={"name": "Desk", "price": "99.90"})
    assert answer.status_code == 200
    desk = {"item_id": item_id, "name": "Desk", "price": "99.90", "is_offer": None}
    assert answer.json() == client.get(f"/items/{item_id}").json() == desk
    assert client.get(f"/items/{other}").json()["name"] == "Lamp"


def test_an_id_is_not_given_twice(client: TestClient) -> None:
    item_id = create(client)
    client.delete(f"/items/{item_id}")
    assert create(client) > item_id


def names(client: TestClient, **query: object) -> list[str]:
    """List items; return their names."""
    answer = client.get("/items/", params={key: str(value) for key, value in query.items()})
    assert answer.status_code == 200
    return [item["name"] for item in answer.json()["items"]]


def test_pages_have_every_item_once_in_order(client: TestClient) -> None:
    expected = [f"Item {number}" for number in range(7)]
    for name in expected:
        create(client, name=name)
    listed, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        query = {"limit": 3} if cursor is None else {"limit": 3, "cursor": cursor}
        page = client.get("/items/", params=query).json()
        listed += [item["name"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert listed == expected
    assert pages == 3


def test_a_page_is_bounded(client: TestClient) -> None:
    assert client.get("/items/").json() == {"items": [], "next_cursor": None}
    for limit in 0, 101:
        assert client.get("/items/", params={"limit": limit}).status_code == 422


def test_a_query_finds_names_that_contain_it(client: TestClient) -> None:
    for name in "Desk lamp", "LAMPSHADE", "100% wool", "Chair":
        create(client, name=name)
    assert names(client, q="lamp") == ["Desk lamp", "LAMPSHADE"]
    assert names(client, q="%") == ["100% wool"]
    assert names(client, q="_") == []
    assert client.get("/items/?q=%00").status_code == 422


def test_every_answer_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {
        (method, path): set(paths[path][method]["responses"]) & {"200", "201", "204", "404", "422"}
        for path in ("/items/", "/items/{item_id}")
        for method in paths[path]
    }
    assert documented == {
        ("get", "/items/"): {"200", "422"},
        ("post", "/items/"): {"201", "422"},
        ("get", "/items/{item_id}"): {"200", "404", "422"},
        ("put", "/items/{item_id}"): {"200", "404", "422"},
        ("delete", "/items/{item_id}"): {"204", "404", "422"},
    }
