//! Document → type → document: nothing is lost, and nothing is added.

use anyhow::{Context, ensure};
use configs::ChannelConfiguration;
use contract::CanonicalJson;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::contracts::{COLLECTIONS, read};

fn again<T: Serialize + DeserializeOwned>(document: &Value) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(
        document.clone(),
    )?)?)
}

fn canonical(document: &Value) -> anyhow::Result<CanonicalJson> {
    Ok(CanonicalJson::parse(&serde_json::to_vec(document)?)?)
}

#[test]
fn each_sample_comes_back_as_it_was() -> anyhow::Result<()> {
    for collection in COLLECTIONS {
        let sample = read(&format!("{collection}.sample.json"))?;
        let again = match collection {
            "AgentConfiguration" => again::<configs::AgentConfiguration>(&sample),
            "ApplicationConfiguration" => again::<configs::ApplicationConfiguration>(&sample),
            "ChannelConfiguration" => again::<configs::ChannelConfiguration>(&sample),
            "PresetConfiguration" => again::<configs::PresetConfiguration>(&sample),
            "SkillConfiguration" => again::<configs::SkillConfiguration>(&sample),
            "TvSectionsConfiguration" => again::<configs::TvSectionsConfiguration>(&sample),
            _ => anyhow::bail!("{collection} is not tried here"),
        }
        .context(collection)?;
        ensure!(
            canonical(&again)? == canonical(&sample)?,
            "{collection}: {sample:#} became {again:#}"
        );
    }
    Ok(())
}

#[test]
fn absent_null_and_empty_are_three_things() -> anyhow::Result<()> {
    let sample = read("ChannelConfiguration.sample.json")?;
    for (member, values) in [
        ("fallbackChannel", vec![json!(null), json!("app-es")]),
        ("skills", vec![json!([])]),
    ] {
        for value in values.into_iter().map(Some).chain([None]) {
            let mut document = sample.clone();
            let members = document.as_object_mut().context("an object")?;
            match value {
                Some(value) => _ = members.insert(member.to_owned(), value),
                None => _ = members.remove(member),
            }
            ensure!(
                again::<ChannelConfiguration>(&document)? == document,
                "{member} of {document:#}"
            );
        }
    }
    Ok(())
}

#[test]
fn what_a_reader_does_not_know_it_passes_by() -> anyhow::Result<()> {
    let sample = read("ChannelConfiguration.sample.json")?;
    let mut newer = sample.clone();
    newer["ofTomorrow"] = json!({"any": 1});
    newer["connection"]["ofTomorrow"] = json!(true);
    let read = |document| serde_json::from_value::<ChannelConfiguration>(document);
    ensure!(read(newer)? == read(sample.clone())?, "another document");
    let mut odd = sample;
    odd["kind"] = json!("pigeon");
    ensure!(read(odd).is_err(), "a kind that nobody knows");
    Ok(())
}
