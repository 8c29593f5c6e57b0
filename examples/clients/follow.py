"""Prints the documents of a collection, then every change: python3 follow.py http://127.0.0.1:8081 ChannelConfiguration"""
import json
import os
import sys
import time
from http.client import HTTPException
from urllib.request import Request, urlopen

base, collection = sys.argv[1:]
url = f"{base}/v1/collections/{collection}"
token_file = os.environ.get("AURA_CONFIGURATION_TOKEN_FILE")


def get(address, headers, timeout):
    request = Request(address, headers=headers)
    if token_file:  # read for each request: it may be exchanged
        with open(token_file) as token:  # never sent to where a redirect leads
            request.add_unredirected_header("Authorization", f"Bearer {token.read().strip()}")
    return urlopen(request, timeout=timeout)


def documents():
    with get(f"{url}/documents", {}, timeout=10) as answer:
        listed = json.load(answer)
    for item in listed["items"]:
        print("have", item["id"], item["revision"], flush=True)
    return f'{listed["head"]["epoch"]} {listed["head"]["revision"]}'


def events(position):
    headers = {"Accept": "text/event-stream", "Last-Event-ID": position}
    with get(f"{url}/changes", headers, timeout=15) as answer:
        event = {}
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            else:
                yield event
                event = {}


position = None
while True:
    try:
        position = position or documents()
        for event in events(position):
            if event.get("event") == "resync":
                documents()
            if event.get("event") == "change":
                change = json.loads(event["data"])  # with configData
                print(change["op"], change["id"], change["revision"], flush=True)
            position = event.get("id", position)
    except (OSError, HTTPException):
        pass  # it is away, or starting
    time.sleep(1)
