"""The description of our services for schemathesis: the ids of existing documents, the format of NDJSON, and the limits
of requests that no schema can express.

The hooks change requests, never the checks of answers. They do not change a request that is invalid on purpose.
"""
import itertools
import json
import re
from urllib.parse import unquote

import jsonschema_rs
import requests
import schemathesis

EXAMPLE = ("ChannelConfiguration", "whatsapp-es")
FEEDS = {"/v1/changes": f"{EXAMPLE[0]}:0", "/v1/collections/{collection}/changes": "0"}
turns = itertools.count()
MIN_REVISION = ("min-revision", "Confcast-Min-Revision")
REVISION = re.compile("[0-9]{1,19}")


@schemathesis.deserializer("application/x-ndjson")
def text(_context, response):
    return response.content.decode()


@schemathesis.hook
def before_call(_context, case, _kwargs):
    places = case.path_parameters or {}
    # Every other one goes to a collection without a schema, so that writes succeed as well.
    if places.get("collection") == EXAMPLE[0] and next(turns) % 2:
        places["collection"] = "FreeForm"
    if case.meta and case.meta.generation.mode.is_positive:
        fit(case)
    reach(case)


def reach(case):
    """A revision that the collection lacks is 504, which is no fault of the service; one that is none stays."""
    for places in (case.query, case.headers):
        for name in MIN_REVISION:
            if places and name in places and REVISION.fullmatch(str(places[name])):
                places[name] = "0"


def whole(text):
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def small(text):
    number = int(text)
    return number if abs(number) < 2**63 else 0


def fit(case):
    if isinstance(case.body, (dict, list)):
        # In a schema 1.0 is an integer, in our API it is not. We accept 64 bits only.
        case.body = json.loads(json.dumps(case.body), parse_float=whole, parse_int=small)
    if case.query and "limit" in case.query:
        case.query["limit"] = small(case.query["limit"])
    if case.method.upper() == "GET" and case.query:
        # Header and parameter say the same, and only they bound a read by a time.
        if MIN_REVISION[0] in case.query and case.headers:
            case.headers.pop(MIN_REVISION[1], None)
        elif MIN_REVISION[1] not in (case.headers or {}) and "/applied" not in case.path:
            case.query.pop("timeout", None)
    path, places, body = case.path, case.path_parameters, case.body
    for name in {"user", "set", "text"} & set(case.query or {}):
        # A schema counts characters, our API counts bytes.
        if len(str(case.query[name]).encode()) > 128:
            case.query[name] = name
    if path in FEEDS and case.method.upper() == "GET":
        # A page needs a position, a stream does not, and both are one operation.
        case.query = {**(case.query or {}), "since": FEEDS[path]}
    # No schema of a plain text says what an entity tag is.
    for name in ("If-Match", "If-None-Match"):
        if case.headers and name in case.headers:
            case.headers[name] = '"1-00000000"'
    if path == "/v1/epoch":
        # Which members go together depends on the store.
        case.body = {}
    if path == "/v1/dead-letters" and case.method.upper() == "DELETE":
        # No schema says that there is a filter, or the word that stands for none.
        case.query = {"all": "true"}
    if path == "/v1/replicas/{instance}" and isinstance(body, dict):
        body["instance"] = unquote(places["instance"])
        if "baseUrl" in body:
            # No pattern says which numbers are ports, and which texts are addresses.
            body["baseUrl"] = "http://127.0.0.1:65535"
    if path == "/v1/changes" and isinstance(body, dict):
        # Each document once; a value only where the operation needs one.
        body["changes"] = list({(each["collection"], each["id"]): each for each in body["changes"]}.values())
        for each in body["changes"]:
            each["configData"] = None if each["op"] == "Delete" else each.get("configData") or {}


@schemathesis.check
def lines(_context, response, case):
    """Each line of newline-delimited JSON has the schema that the document has for lines."""
    if response.headers.get("content-type", [""])[0] != "application/x-ndjson":
        return
    media = case.operation.definition.raw["responses"]["200"]["content"]["application/x-ndjson"]
    document = case.operation.schema.raw_schema
    schema = {"components": document["components"], **media["schema"]["x-line"]}
    validator = jsonschema_rs.validator_for(schema)
    for line in response.content.splitlines():
        validator.validate(json.loads(line))


@schemathesis.check
def problem_type(_context, response, case):
    """The document names the types of problems that an answer may be."""
    if response.headers.get("content-type", [""])[0] != "application/problem+json":
        return
    problem = response.json()
    answers = case.operation.definition.raw["responses"]
    named = answers.get(str(response.status_code), {}).get("x-problem-types", [])
    # These belong to no operation: the description of the document names them.
    named = [*named, *(f"urn:confcast:problem:{kind}" for kind in ("no-such-route", "method-not-allowed"))]
    assert problem["type"] in named, f"{problem['type']} is not among {named}"
    assert problem["status"] == response.status_code, problem


@schemathesis.hook
def after_call(_context, case, response):
    # Deleted documents are restored, so that later requests find them.
    if response.request.method == "DELETE" and response.status_code == 200:
        again = {"If-None-Match": "*"}
        requests.put(response.request.url, json={"name": "again", "id": EXAMPLE[1]}, headers=again, timeout=5)
