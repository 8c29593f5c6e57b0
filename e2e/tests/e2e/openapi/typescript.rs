//! The documents as types of TypeScript: `openapi-typescript` generates them, and the compiler checks
//! what a caller does with them (`types.ts`). A type that admits nothing fails there.

use std::fs;

use super::*;

#[tokio::test]
async fn typescript_types_of_both_documents_can_be_used() -> Outcome {
    let (publisher, subscriber) = pair().await?;
    let folder = folder()?;
    let tools = dependencies::path_of("OPENAPI_TYPES")?.join("node_modules/.bin");
    let tool = |name: &str| {
        let mut command = Command::new(tools.join(name));
        command.current_dir(folder.path());
        command
    };
    for (name, service) in [("publisher", &publisher), ("subscriber", &subscriber)] {
        let document = service.api().get("/openapi.json").await?.expect(200)?;
        let source = format!("{name}.json");
        fs::write(folder.path().join(&source), document.body)?;
        let types = format!("{name}.ts");
        let mut generator = tool("openapi-typescript");
        generator.args([&source, "--output", &types]);
        succeeds(generator).await?;
        // A document without webhooks and local definitions has these two as empty types.
        let types = fs::read_to_string(folder.path().join(types))?;
        let empty: Vec<_> = types
            .lines()
            .filter(|line| line.contains("Record<string, never>"))
            .filter(|line| !line.starts_with("export type"))
            .collect();
        ensure!(empty.is_empty(), "{name}: {empty:#?}");
    }
    let caller = dependencies::repository_root().join("e2e/tests/e2e/openapi/types.ts");
    fs::copy(caller, folder.path().join("types.ts"))?;
    let mut compiler = tool("tsc");
    compiler.args([
        "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "types.ts",
    ]);
    succeeds(compiler).await.map(drop)
}
