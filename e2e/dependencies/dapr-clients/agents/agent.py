"""An agent of Dapr Agents that takes its instructions from a configuration store: agent.py STORE KEY. The ports are those
of the environment. It prints its instructions whenever they are set, and at each SIGUSR1 it carries out a task, as a
workflow of its sidecar, and prints the prompt that a model would have got. It ends at SIGTERM."""

import json
import signal
import sys

SIGNALS = {signal.SIGUSR1, signal.SIGTERM}
# Before the packages begin threads: each has the mask of the one that began it.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

from dapr_agents import AgentEvent, AgentExecutorBase, AgentRunner, DurableAgent
from dapr_agents.agents.configs import RuntimeSubscriptionConfig

store, key = sys.argv[1:]


def say(*words):
    print(*words, flush=True)


class Reciter(AgentExecutorBase):
    """In place of a model, which would need a network: its answer is the prompt of the agent."""

    def __init__(self, prompt=None):
        self.prompt = prompt

    def bind(self, binding):
        return Reciter(binding.system_prompt)

    async def run(self, prompt, *, session_id=None, context=None):
        answer = {"role": "assistant", "content": self.prompt}
        yield AgentEvent(type="complete", content=answer, session_id=session_id or key)

    async def get_session(self, session_id):
        return None


def changed(name, value):
    if name == "agent_instructions":
        say("instructions", json.dumps(value))


agent = DurableAgent(
    name="weather",
    role="Forecaster",
    goal="Tell the weather.",
    instructions=["those of the code"],
    executor=Reciter(),
    configuration=RuntimeSubscriptionConfig(store_name=store, keys=[key], on_config_change=changed),
)
agent.start()
# Its end would be that of the agent.
runner = AgentRunner()
while signal.sigwait(SIGNALS) == signal.SIGUSR1:
    say("answer", runner.run_sync(agent, {"task": "How is the weather?"}, timeout_in_seconds=60))
agent.stop()
