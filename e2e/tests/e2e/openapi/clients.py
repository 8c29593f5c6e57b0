"""Two generated clients make every call of a service, and every real answer is held against the document of the service.

clients.py KIND URL DOCUMENT: KIND is publisher or subscriber. The packages `attrs_client` (openapi-python-client) and
`pydantic_client` (openapi-generator) were generated from DOCUMENT and are on PYTHONPATH, with what they import.

schemathesis tries what a service does with any request. Here it is the other way round: whether a client that knows the
document only can read what the service says. The service has documents, and a replica that checks in.
"""
import base64
import importlib
import json
import sys
from pathlib import Path

import jsonschema_rs

import attrs_client
import pydantic_client

KIND, URL, DOCUMENT = sys.argv[1:]
COLLECTION, ID = "ChannelConfiguration", "whatsapp-es"
document = json.loads(Path(DOCUMENT).read_text())
operations = {
    operation["operationId"]: operation for methods in document["paths"].values() for operation in methods.values()
}
called = {"attrs": set(), "pydantic": set()}


def snake(name):
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def matches_document(name, status, media_type, body):
    """The answer has a status, a media type and a body that the document names for the operation."""
    answers = operations[name]["responses"]
    assert str(status) in answers, f"{name}: {status} is not described: {body[:200]}"
    content = answers[str(status)].get("content", {})
    if not content:
        assert not body, f"{name}: a body where none is described"
        return
    described = {media.split(";")[0].strip(): entry for media, entry in content.items()}
    media_type = media_type.split(";")[0].strip()
    assert media_type in described, f"{name}: {media_type} is not among {list(described)}"
    schema = described[media_type]["schema"]
    if media_type.endswith("json") and "ndjson" not in media_type:
        jsonschema_rs.validator_for({"components": document["components"], **schema}).validate(json.loads(body))
    elif "x-line" in schema:
        validator = jsonschema_rs.validator_for({"components": document["components"], **schema["x-line"]})
        for line in body.splitlines():
            validator.validate(json.loads(line))


def model(name, value):
    """An object of the client of openapi-python-client."""
    return getattr(importlib.import_module("attrs_client.models"), name).from_dict(value)


def with_attrs(name, *path, expected=200, body=None, **parameters):
    module = importlib.import_module(f"attrs_client.api.default.{snake(name)}")
    if body is not None:
        parameters["body"] = model(*body)
    client = attrs_client.Client(base_url=URL)
    answer = module.sync_detailed(*path, client=client, **parameters)
    assert answer.status_code == expected, f"{name}: {answer.status_code} {answer.content[:300]}"
    matches_document(name, answer.status_code, answer.headers.get("content-type", ""), answer.content)
    called["attrs"].add(name)
    return answer.parsed


def with_pydantic(name, *path, expected=200, body=None, **parameters):
    api = pydantic_client.DefaultApi(pydantic_client.ApiClient(pydantic_client.Configuration(host=URL)))
    given = list(path)
    if body is not None:
        kind, value = body
        # This generator has no type for a document: any dictionary is one.
        given.append(value if kind == "ConfigData" else getattr(pydantic_client, kind).from_dict(value))
    answer = getattr(api, f"{snake(name)}_with_http_info")(*given, **parameters)
    assert answer.status_code == expected, f"{name}: {answer.status_code} {answer.raw_data[:300]}"
    media_type = answer.headers.get("content-type", "") if answer.headers else ""
    matches_document(name, answer.status_code, media_type, answer.raw_data)
    called["pydantic"].add(name)
    return answer.data


def reads(call):
    heads = call("getHeads")
    assert COLLECTION in {head.collection for head in heads.heads}
    assert call("getHead", COLLECTION).collection == COLLECTION
    assert ID in {item.id for item in call("listDocuments", COLLECTION).items}
    assert call("getDocument", COLLECTION, ID).id == ID
    assert call("getDocument", COLLECTION, ID, min_revision="1", timeout="20s").id == ID
    call("getSnapshot")
    call("getChanges", since=f"{COLLECTION}:{revision(heads)}")
    call("getChangesOfCollection", COLLECTION, since=str(revision(heads)))
    call("getMetrics")
    call("getOpenapi")
    for name in ("isAlive", "isReady"):
        call(name, expected=204)


def revision(heads):
    [head] = [head for head in heads.heads if head.collection == COLLECTION]
    return head.revision


def publisher(call, prefix):
    reads(call)
    assert COLLECTION in {each.collection for each in call("listSchemas").schemas}
    call("getSchema", COLLECTION)
    call("getSample", COLLECTION)
    value = json.loads(json.dumps(SAMPLE))
    value["id"] = f"{prefix}-made"
    document = ("ConfigData", value)
    assert call("createDocument", COLLECTION, body=document, expected=201).id == value["id"]
    assert call("getReferrers", COLLECTION, value["id"]).items == []
    assert call("getApplied", COLLECTION, timeout="20s").reached is True
    call("putDocument", COLLECTION, value["id"], body=document, if_match="*", x_user_id="u-1")
    call("patchDocument", COLLECTION, value["id"], body=("ConfigData", {"name": "patched"}))
    changes = [{"collection": COLLECTION, "op": "Patch", "id": id, "configData": {"name": f"{prefix} in a set"}}
               for id in (ID, value["id"])]
    written = call("commitChangeSet", body=("ChangeSetRequest", {"changes": changes}))
    past(call, prefix, value["id"], written.id)
    call("deleteDocument", COLLECTION, value["id"])
    report = {"instance": prefix, "bootId": "b", "baseUrl": "http://127.0.0.1:65535", "intervalMs": 1000,
              "collections": {}}
    call("checkIn", prefix, body=("CheckIn", report))
    urls = {replica.base_url for replica in call("listReplicas").replicas}
    assert "http://127.0.0.1:65535" in urls, urls
    letter = f"{prefix:x<32}".encode().hex()[:32]
    # Of a part of an event the name cannot be checked.
    report = {"id": letter, "instance": prefix, "cause": "wrong-type", "detail": "no id", "bytes": 1_000,
              "event": {"collection": COLLECTION, "document": ID}, "original": {"text": "{}"}}
    call("reportDeadLetter", body=("DeadLetterReport", report))
    assert letter in {item.id for item in call("listDeadLetters").items}
    assert call("getDeadLetter", letter).original.text == "{}"
    call("receiveDeadLetter", body=("RawEvent", {"data_base64": "e30="}))
    call("subscribe")
    call("discardDeadLetter", letter)
    event = json.dumps({"collection": COLLECTION, "op": "Update", "id": ID}).encode()
    call("receiveDeadLetter", body=("RawEvent", {"data_base64": base64.b64encode(event).decode()}))
    moved = call("listDeadLetters", collection=COLLECTION).items[0].id
    # No subscriber would take it.
    call("replayDeadLetter", moved, body=("ReplayRequest", {"dryRun": True}))
    call("discardDeadLetters", collection=COLLECTION)
    assert call("getVersion").service == "publisher"
    assert call("getIdentity").grants
    assert call("listAudit").items == []
    call("listAuditTips")
    request = {"name": prefix, "grants": [{"role": "reader"}]}
    token = call("createToken", body=("TokenRequest", request), expected=201)
    assert token.info.id in {item.id for item in call("listTokens").items}
    call("revokeToken", token.info.id, expected=204)
    call("repairStore", body=("RepairRequest", {}))
    call("declareEpoch", body=("RestoreEpochRequest", {}))


def past(call, prefix, id, change_set):
    call("rollBackSet", change_set, body=("SetRollbackRequest", {}))
    name = f"{prefix}-named"
    call("createSnapshot", name, expected=201)
    assert name in {item.name for item in call("listSnapshots").items}
    assert call("getNamedSnapshot", name).name == name
    call("patchDocument", COLLECTION, id, body=("ConfigData", {"name": "a mistake"}))
    assert len(call("rollBackDocument", COLLECTION, id, body=("RollbackRequest", {"toSnapshot": name})).items) == 1
    to_snapshot = {"toSnapshot": name, "dryRun": True}
    assert call("rollBackCollection", COLLECTION, body=("RollbackRequest", to_snapshot)).items == []
    call("deleteSnapshot", name, expected=204)
    assert call("getHistory", limit=2).items
    assert call("getHistoryOfCollection", COLLECTION, limit=1).items
    assert {item.id for item in call("getHistoryOfDocument", COLLECTION, id).items} == {id}


def subscriber(call, prefix):
    reads(call)
    call("getStatus")
    assert call("getVersion").service == "subscriber"
    call("getIdentity")
    call("subscribe")
    event = {"collection": COLLECTION, "op": "Update", "id": ID}
    if call is with_attrs:
        body = ("EventData", event)
    else:
        body = ("ConfigData", {"specversion": "1.0", "id": prefix, "source": "test", "type": "t", "data": event})
    call("processEvent", body=body)
    call("hearHeads", prefix)


SAMPLE = json.loads((Path(__file__).resolve().parents[4] / f"schemas/{COLLECTION}.sample.json").read_text())
# The documents that it refers to are not stored.
for member in ("skills", "preset"):
    SAMPLE.pop(member)
everything = {"publisher": publisher, "subscriber": subscriber}[KIND]
everything(with_attrs, "attrs")
everything(with_pydantic, "pydantic")
for client, names in called.items():
    missing = set(operations) - names
    assert not missing, f"{client} did not call {missing}"
print(f"{len(operations)} operations, each called by {len(called)} clients")
