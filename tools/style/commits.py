#!/usr/bin/env python3
"""Checks the messages of commits: a subject of at most 72 characters, a blank line, a body.

It checks every commit after FIRST, which is the last one of the older history. Where FIRST is not
in the history of HEAD (a shallow clone), it checks HEAD alone. Merge commits are not checked.
It never changes anything, and needs git only: without a repository there is nothing to check.
"""

import subprocess
import sys

FIRST = "056d01c9705eec77cac796082253f363a30df670"
LONGEST = 72


def git(*arguments):
    """The output of a git command; None when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def commits():
    """The ids of the commits to check."""
    after_first = git("merge-base", "--is-ancestor", FIRST, "HEAD") is not None
    return git("rev-list", "--no-merges", *(["HEAD", f"^{FIRST}"] if after_first else ["-1", "HEAD"]))


def faults(message):
    """What is wrong with a message."""
    lines = message.rstrip("\n").split("\n")
    subject = lines[0]
    if not subject.strip():
        yield "has no subject"
    if len(subject) > LONGEST:
        yield f"has a subject of {len(subject)} characters; at most {LONGEST} fit"
    if len(lines) > 1 and lines[1].strip():
        yield "has no blank line after the subject"
    if not any(line.strip() for line in lines[2:]):
        yield "has no body: say the problem, the solution, and how it was tried"


def main():
    found = commits()
    if found is None:
        print("commits: no git history here, nothing is checked")
        return 0
    wrong = 0
    for commit in found.split():
        message = git("show", "--no-patch", "--format=%B", commit) or ""
        for fault in faults(message):
            print(f"commit {commit[:10]} {fault}: {message.splitlines()[0] if message.strip() else ''}")
            wrong += 1
    if wrong:
        print("commits: change the messages with `git commit --amend` or `git rebase --interactive`")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
