"""Uncertainty methods: the numbers of other programs, what must not matter, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.core.byname import tensors
from calib.vqa.tables import Items, Outputs
from calib.vqa.uncertainty import METHODS, PANEL, Evidence, Missing, answers, graphs, options, samples, score
from calib.vqa.uncertainty.evidence import GIVEN

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vqa_estimators.json").read_text())


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{len(case['inputs']['greedy_tokens'])}tokens"
)
def test_estimators_have_the_numbers_of_their_sources(case: dict[str, Any]) -> None:
    given, theirs = case["inputs"], case["lm_polygraph"]
    logprobs = np.array(given["greedy_log_probs"])
    tokens = logprobs[range(len(logprobs)), given["greedy_tokens"]][None]
    entropies = options.entropy_rows(np.exp(logprobs))[None]
    of_samples = given["sample_token_loglik"]
    sums, means = (np.array([[f(each) for each in of_samples]]) for f in (np.sum, np.mean))
    clusters = np.array([given["cluster_ids"]])
    entail, agree = np.array([given["nli_entail"]]), 1 - np.array([given["nli_contra"]])
    similar = np.array([given["sentence_similarity"]])
    sars = [
        answers.token_sar(np.array([a]), np.array([b]))[0]
        for a, b in zip(of_samples, given["sample_token_similarity"], strict=True)
    ]
    ours = {
        "MaximumSequenceProbability": answers.seq_nll(tokens),
        "Perplexity": answers.perplexity(tokens),
        "MeanTokenEntropy": answers.mean_token_entropy(entropies),
        "MonteCarloSequenceEntropy": samples.mc_entropy(sums),
        "MonteCarloNormalizedSequenceEntropy": samples.mc_entropy_normalised(means),
        "SemanticEntropy": samples.semantic_entropy_polygraph(sums, clusters),
        "SemanticEntropyEmpirical": samples.semantic_entropy_discrete(clusters),
        "NumSemSets": samples.number_of_answers(clusters),
        "DegMat_NLI_score_entail": graphs.degmat(entail),
        "DegMat_NLI_score_contra": graphs.degmat(agree),
        "EigValLaplacian_NLI_score_entail": graphs.eigv(entail),
        "EigValLaplacian_NLI_score_contra": graphs.eigv(agree),
        "Eccentricity_NLI_score_entail": graphs.eccentricity(entail),
        "TokenSAR": answers.token_sar(tokens, np.array([given["greedy_token_similarity"]])),
        "SentenceSAR": samples.sentence_sar(sums, similar),
        "SAR": samples.sar(np.array([sars]), similar),
        "LabelProb": samples.self_consistency(clusters),
    }
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value[0] == pytest.approx(theirs[name], abs=1e-5), name
    assert samples.semantic_entropy_kuhn(means, clusters)[0] == pytest.approx(case["kuhn"], abs=1e-5)
    assert samples.semantic_entropy_rao(means, clusters)[0] == pytest.approx(case["rao"], abs=1e-5)


@pytest.mark.parametrize("case", GOLDEN["hedge"], ids=["split", "one", "scattered"])
def test_hedge(case: dict[str, Any]) -> None:
    ids, n = case["semantic_ids_greedy_clean_noisy"], case["n"]
    clean, noisy = np.array([ids[1 : 1 + n]]), np.array([ids[1 + n :]])
    clean_l, noisy_l = np.array([case["clean_mean_loglik"]]), np.array([case["noisy_mean_loglik"]])
    assert samples.semantic_entropy_rao(clean_l, clean)[0] == pytest.approx(case["SE_clean"], abs=1e-5)
    for alpha in (0.0, 1.0):
        ours = samples.vase(clean_l, clean, noisy_l, noisy, alpha=alpha)[0]
        assert ours == pytest.approx(case[f"VASE_alpha{alpha:g}"], abs=1e-5)
    # Theirs is an agreement, a confidence.
    assert samples.radflag(clean, np.array([ids[0]]))[0] == pytest.approx(1 - case["RadFlag"])


@pytest.mark.parametrize("case", GOLDEN["options"], ids=lambda case: case["name"])
def test_option_scores(case: dict[str, Any]) -> None:
    logliks, tokens, prior = (
        np.array([case[key]], dtype=float) for key in ("loglik", "n_tokens", "prior_loglik")
    )
    pad = [[0, 0], [0, 2]]  # two options that other questions have
    for kind, scores in (("sum", logliks), ("mean", logliks / tokens), ("pmi", logliks - prior)):
        scores = np.pad(scores, pad, constant_values=np.nan)
        probs = options.softmax_rows(scores)
        assert probs[0, : logliks.shape[1]] == pytest.approx(case[kind]["probs"], abs=1e-12)
        ours = {
            "msp": options.option_msp(probs),
            "entropy": options.option_entropy(probs),
            "entropy_normalised": options.option_entropy_normalised(probs),
            "margin": options.option_margin(probs),
            "log_ratio": options.option_log_ratio(scores),
            "gini": options.option_gini(probs),
        }
        for name, value in ours.items():
            assert value[0] == pytest.approx(case[kind]["scores"][name], abs=1e-5), (kind, name)


def evidence(*rows: dict[str, Any], k: int = 3) -> Evidence:
    ids = [f"o{i}" for i in range(k)]
    items = Items.of_rows(
        [{"item_id": f"q{i}", "option_ids": ids, "correct_index": 0} for i in range(len(rows))]
    )
    said = [{"model_id": "m", "item_id": f"q{i}", **row} for i, row in enumerate(rows)]
    return Evidence(Outputs.of_rows(said, items))


def drawn(*ids: str | None) -> dict[str, Any]:
    return {"samples": [{"pred_id": each} for each in ids]}


def test_samples_are_compared_by_option_and_what_is_unread_agrees_with_nothing() -> None:
    found = evidence(drawn("o1", "o1", "o2"), drawn(None, None, None), drawn("o1", "o1"))
    assert score(found, "self_consistency").values == pytest.approx([1 / 3, 2 / 3, 0])
    assert score(found, "answer_entropy").values[1] == pytest.approx(np.log(3))  # nothing is known to agree
    assert score(found, "number_of_answers").values.tolist() == [2, 3, 1]


def test_clusters_that_are_not_those_of_the_samples_are_not_compared() -> None:
    row = {**drawn("o0", "o1", "o1"), "noisy_samples": [{"pred_id": "o0"}]}
    assert evidence({**row, "sample_clusters": [4, 4, 7]}).sample_clusters.tolist() == [[4, 4, 7]]
    with pytest.raises(Missing, match="the clusters of noisy_samples"):
        evidence({**row, "sample_clusters": [4, 4, 7]}).need("noisy_clusters")
    assert evidence(row).noisy_clusters.tolist() == [[0]]
    with pytest.raises(Missing, match=r"row 2 has 2 for 3 samples"):
        evidence({**row, "sample_clusters": [4, 4, 7]}, {**row, "sample_clusters": [4, 4]}).need(
            "sample_clusters"
        )


def test_equal_shares_are_equal_to_the_last_bit() -> None:
    """Entropies summed in the order of the samples differ in the last bit, which breaks ties."""
    rng = np.random.default_rng(0)
    counts = [7, 2, 1]
    rows = np.stack([rng.permutation(np.repeat(rng.permutation(3), counts)) for _ in range(200)])
    assert len(np.unique(samples.answer_entropy(rows))) == 1


def test_the_order_of_samples_and_options_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    logprobs, clusters = rng.normal(size=(20, 6)) - 2, rng.integers(0, 3, (20, 6))
    order = rng.permutation(6)
    for function in (
        samples.semantic_entropy_kuhn,
        samples.semantic_entropy_rao,
        samples.semantic_entropy_polygraph,
    ):
        assert function(logprobs[:, order], clusters[:, order]) == pytest.approx(function(logprobs, clusters))
    assert options.option_entropy(options.softmax_rows(logprobs[:, order])) == pytest.approx(
        options.option_entropy(options.softmax_rows(logprobs))
    )
    assert options.option_msp(options.softmax_rows(logprobs + 50)) == pytest.approx(
        options.option_msp(options.softmax_rows(logprobs))
    )


def test_what_is_missing_is_nan_and_said() -> None:
    found = evidence({"option_logit": [2.0, 1.0, 0.0]}, {"verbalized_confidence": 0.9})
    one = score(found, "option_msp")
    assert np.isnan(one.values).tolist() == [False, True]
    assert one.reason == "1 of 2 answers lack scores of the options"
    none = score(found, "answer_entropy")
    assert np.isnan(none.values).all()
    assert none.reason == "column samples is not recorded"
    with pytest.raises(Missing, match="condition no_image"):
        found.need("no_image_doubt")


def test_the_first_scores_there_are_are_taken_and_others_on_request() -> None:
    row = {"option_loglik": [-1.0, -4.0, -9.0], "option_n_tokens": [1, 4, 9]}
    assert evidence(row).scores == "sum"
    assert evidence({**row, "option_letter_logprob": [-1.0, -2.0, -3.0]}).scores == "letter"
    means = Evidence(evidence(row).outputs, "mean")
    assert means.option_probs[0] == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        Evidence(evidence(row).outputs, "means")


def test_sar_of_the_table_is_sar_of_the_arrays() -> None:
    row = drawn("o0", "o0", "o1")
    row |= {"sample_token_logprobs": [[-1.0, -2.0], [-0.5], [-1.0]]}
    row |= {"sample_token_similarity": [[0.5, 1.0], [0.2], [0.3]]}
    found = score(evidence(row), "sar").values
    same = np.array([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    assert found == pytest.approx(samples.sar(np.array([[1.0, 0.5, 1.0]]), same))
    with_similarity = score(evidence({**row, "sample_similarity": [1.0] * 9}), "degmat").values
    assert with_similarity == pytest.approx([0.0])
    with pytest.raises(ValueError, match="'sample_similarity' has 8 numbers; for 3 samples it takes 9"):
        score(evidence({**row, "sample_similarity": [1.0] * 8}), "degmat")


def test_every_method_asks_for_what_evidence_can_give() -> None:
    for name, method in METHODS.items():
        for each in tensors(method.function):
            assert hasattr(Evidence, each) or each in GIVEN, (name, each)
        assert method.access in ("white", "grey", "black")
    assert len(PANEL) == 8
    assert not any(METHODS[name].baseline for name in PANEL)


def test_chance_is_the_same_everywhere_and_says_nothing_of_the_condition() -> None:
    items = Items.of_rows(
        [
            {"item_id": f"a/1#{c}", "condition": c, "option_ids": ["o0", "o1"], "correct_index": 0}
            for c in ("original", "no_image")
        ]
    )
    said = Outputs.of_rows([{"model_id": "m", "item_id": i} for i in items.ids], items)
    values = Evidence(said).chance
    assert values[0] == values[1] == pytest.approx(0.69726, abs=1e-5)


def test_a_sample_of_unknown_probability_is_no_cluster_of_weight_nothing() -> None:
    logprobs, clusters = np.array([[-1.0, -2.0, np.nan]]), np.array([[0, 1, 2]])
    for method in (samples.semantic_entropy_kuhn, samples.semantic_entropy_polygraph):
        assert method(logprobs, clusters)[0] == pytest.approx(method(logprobs[:, :2], clusters[:, :2])[0])


@pytest.mark.parametrize(
    ("columns", "method", "told"),
    [
        (
            {"answer_token_logprobs": [-1.0, -1.0], "answer_token_similarity": [0.5]},
            "token_sar",
            "row 2: column 'answer_token_similarity' has 1 numbers, and 'answer_token_logprobs' 2",
        ),
        (
            {"sample_token_logprobs": [[-1.0], [-1.0]], "sample_token_similarity": [[0.5]]},
            "sar",
            "row 2: columns sample_token_logprobs and sample_token_similarity need a list for each of the 2",
        ),
        (
            {"sample_similarity": [1.0, 2.0, 2.0, 1.0]},
            "eigv",
            "column 'sample_similarity' has numbers",
        ),
        ({"sample_similarity": [0.0, 0.5, 0.5, 0.0]}, "eigv", "above 0 of one and itself"),
    ],
)
def test_what_is_beside_tokens_and_samples_is_refused_by_row(
    columns: dict[str, Any], method: str, told: str
) -> None:
    rows = [{"item_id": name, "option_ids": ["o0", "o1"], "correct_index": 0} for name in "ab"]
    items = Items.of_rows(rows)
    good = {"answer_token_logprobs": [-1.0, -1.0, -1.0], "answer_token_similarity": [0.5, 0.5, 0.5]}
    good |= {"sample_token_logprobs": [[-1.0], [-1.0]], "sample_token_similarity": [[0.5], [0.5]]}
    good |= {"sample_similarity": [1.0, 0.5, 0.5, 1.0], "samples": [{"pred_id": "o0"}, {"pred_id": "o1"}]}
    said = [{"model_id": "m", "item_id": "a", **good}, {"model_id": "m", "item_id": "b", **good, **columns}]
    assert score(Evidence(Outputs.of_rows(said[:1], items)), method).known.all()
    with pytest.raises(ValueError, match=told):
        score(Evidence(Outputs.of_rows(said, items)), method)
