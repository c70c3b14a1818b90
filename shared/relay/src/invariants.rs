//! What must always hold, as predicates: debug assertions, property tests and the simulator share
//! them.

use crate::effect::Author;
use crate::machine::Machine;

/// The first invariant that does not hold, if any.
pub fn broken(machine: &Machine) -> Option<&'static str> {
    let transcript = machine.transcript();
    let account = machine.account();
    let budget = &machine.settings().budget;
    let tokens_by = |author| -> u32 {
        transcript.legs().iter().filter(|leg| leg.author == author).map(|leg| leg.tokens).sum()
    };
    let total = tokens_by(Author::Slm) + tokens_by(Author::Llm);
    let checks = [
        (
            machine.acknowledged_tokens() as usize <= transcript.cloud_ids().len(),
            "the cloud acknowledged more than there is",
        ),
        (
            total as usize == transcript.edge_answer_ids().len() && total == account.total_tokens,
            "the legs are not the edge view",
        ),
        (tokens_by(Author::Llm) == account.llm_tokens, "the LLM legs are not the LLM tokens"),
        (account.llm_tokens <= budget.cloud_tokens_max, "more LLM tokens than the budget"),
        (total <= budget.response_tokens_max, "more response tokens than the budget"),
        (account.calls <= budget.calls_max, "more calls than the budget"),
        (
            u64::from(account.llm_tokens) <= account.granted_tokens,
            "more LLM tokens than were granted",
        ),
        (account.granted_tokens <= account.requested_tokens, "more tokens granted than requested"),
        (
            machine
                .settings()
                .command_tokens
                .iter()
                .all(|id| !transcript.cloud_answer_ids().contains(id)),
            "a command token in the cloud view",
        ),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what)
}
