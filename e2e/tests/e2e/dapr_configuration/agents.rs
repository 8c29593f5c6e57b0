//! Two replicas of an agent of Dapr Agents, as it is published, which takes its instructions from a
//! subscriber and carries out tasks as workflows of its sidecar.

use e2e::testbed::placement::Placement;
use nix::sys::signal::Signal;

use super::*;

fn instructions(number: u64) -> Value {
    json!({"agent_instructions": [format!("Speak of {number}.")]})
}

fn instructed(number: u64) -> String {
    format!(r#"instructions ["Speak of {number}."]"#)
}

impl Client {
    /// Gives the agent a task; the prompt of its model has the instructions of this number.
    async fn carries_out(&mut self, number: u64) -> Outcome {
        let answers = |output: &str| {
            let lines = output.lines().filter(|line| line.starts_with("answer "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = answers(&self.process.output()).len();
        self.process.signal(Signal::SIGUSR1)?;
        within(DEADLINE, &format!("{} answers", self.name), async || {
            let answers = answers(&self.process.output());
            ensure!(answers.len() > before, "no answer yet");
            let expected = format!("Speak of {number}.");
            ensure!(answers[before].contains(&expected), "{}", answers[before]);
            Ok(())
        })
        .await
        .with_context(|| self.process.tail())
    }
}

/// Sidecars, publisher and Redis are killed in turn. Both replicas of the agent get every change, in
/// order and once, over the subscription that they began with, and both carry out tasks before and after.
#[tokio::test]
async fn agents_follow_their_instructions_through_outages() -> Outcome {
    let placement = Placement::start().await?;
    let mut stage = Stage::start_with(Some(placement.flag())).await?;
    stage.create(&instructions(2)).await?;
    let mut agents = [stage.client("agents", 0)?, stage.client("agents", 1)?];
    // It reads first, and subscribes then.
    let mut expected = vec![instructed(2), instructed(2)];
    for agent in &mut agents {
        agent.says(&expected).await?;
        agent.carries_out(2).await?;
    }
    let mut number = 2;
    let mut change = async |stage: &Stage, agents: &mut [Client; 2]| {
        for _change in 0..5 {
            number += 1;
            stage.put(&instructions(number)).await?;
            expected.push(instructed(number));
        }
        for agent in agents {
            agent.says(&expected).await?;
        }
        anyhow::Ok(number)
    };

    for sidecar in &mut stage.testbed.sidecars {
        sidecar.kill()?;
    }
    change(&stage, &mut agents).await?;
    for sidecar in &mut stage.testbed.sidecars {
        sidecar.start().await?;
    }
    change(&stage, &mut agents).await?;

    stage.testbed.publisher.kill()?;
    stage.testbed.publisher.start().await?;
    change(&stage, &mut agents).await?;

    stage.testbed.redis.as_mut().context("a Redis")?.kill()?;
    change(&stage, &mut agents).await?;
    let redis = stage.testbed.redis.as_mut().context("a Redis")?;
    redis.restart().await?;
    let newest = change(&stage, &mut agents).await?;

    for agent in &mut agents {
        agent.carries_out(newest).await?;
    }
    for agent in &mut agents {
        agent.process.signal(Signal::SIGTERM)?;
        let ended = agent.process.ended(DEADLINE).await?;
        ensure!(ended.success(), "{}: {ended}", agent.name);
    }
    Ok(())
}
