# The state API of a sidecar from Python, without a library: a version is changed once.
#
#   python3 state.py http://127.0.0.1:3500/v1.0/state/free

import json
import sys
import urllib.error
import urllib.request

store = sys.argv[1]


def save(expected, **item):
    body = json.dumps([{"key": "python", **item}]).encode()
    request = urllib.request.Request(store, body, {"content-type": "application/json"})
    try:
        status = urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        status = error.code
    assert status == expected, f"{status}, expected {expected}"


def read():
    answer = urllib.request.urlopen(f"{store}/python", timeout=30)
    return json.load(answer)["n"], answer.headers["etag"]


save(204, value={"n": 1})
n, etag = read()
save(204, value={"n": n + 1}, etag=etag, options={"concurrency": "first-write"})
save(409, value={"n": 9}, etag=etag, options={"concurrency": "first-write"})
print(read()[0])
