"""Follows one key with the SDK of Dapr for Python: follow.py STORE KEY. The ports are those of the environment. It prints
a line for each step, and ends after the deletion of the key."""

import sys
import threading

from dapr.clients import DaprClient

store, key = sys.argv[1:]
deleted = threading.Event()


def say(*words):
    print(*words, flush=True)


def updated(_subscription, response):
    item = response.items[key]
    if item.metadata.get("deleted"):
        say("gone", item.version)
        deleted.set()
    else:
        say("item", item.version, item.value)


with DaprClient() as client:
    client.save_state("statestore", "greeting-python", "hello")
    say("state", client.get_state("statestore", "greeting-python").text())
    item = client.get_configuration(store_name=store, keys=[key]).items[key]
    say("have", item.version, item.value)
    subscription = client.subscribe_configuration(store_name=store, keys=[key], handler=updated)
    deleted.wait()
    assert client.unsubscribe_configuration(store_name=store, id=subscription)
    say("unsubscribed")
