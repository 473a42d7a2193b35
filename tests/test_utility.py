"""Utility: tasks from files, fluency, and a steered model in lm-evaluation-harness, with numbers worked out apart."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

import workbench as wb
from workbench.loading import Model
from workbench.models import tokenizer_of
from workbench.utility.tasks import FORMS

SHARED = Path(__file__).parents[2] / "shared" / "data"
real_files = pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")


@pytest.fixture(scope="module")
def model(babblers: dict[str, Model]) -> Model:
    return babblers["plain"]


@pytest.fixture(scope="module")
def plan(model: Model, prompts: wb.PromptSet) -> wb.SteeringPlan:
    """A plan whose gate opens on some prompts only."""
    read = wb.last_token_activations(model, prompts)
    vectors = wb.mean_difference(read)
    gate = replace(wb.ThresholdGate.fit(vectors, read), shared_layer=1)
    return wb.SteeringPlan(vectors, gate=gate, layers=[2, 3], alpha=1.0, scale="gap")


def options(prompts: list[str], answers: list[str]) -> wb.PromptSet:
    """Questions with two options each."""
    return wb.PromptSet(
        "q",
        tuple(
            wb.Prompt.user(f"{text}\n\nA. a ring\nB. a boat", label="domain", source=f"q:{i}", answer=answer)
            for i, (text, answer) in enumerate(zip(prompts, answers, strict=True))
        ),
    )


TEXTS = ["steal a ring", "how do i break the lock", "bake", "mend a boat for my friend"]


class TestTasks:
    def test_likelihood_is_the_sum_of_the_loop_s_log_probabilities(self, model: Model, plan) -> None:
        task = wb.Task("q", options(TEXTS, ["A", "B", "A", "B"]), replace(FORMS["letter"], instruction=""))
        result = wb.run_task(model, task, plan, by="likelihood")
        ids = {o: tokenizer_of(model)(o, add_special_tokens=False)["input_ids"] for o in "AB"}
        for arm, of in (("unsteered", None), ("steered", plan)):
            said = []
            for prompt in task.prompts:
                score = {}
                for option, tokens in ids.items():
                    [logits] = wb.teacher_forced_logits(model, [prompt], [tokens], of)
                    steps = [row.log_softmax(-1)[t] for row, t in zip(logits, tokens, strict=True)]
                    score[option] = float(sum(steps))
                said.append(max(score, key=score.get))
            part = result.frame.query("arm == @arm and reading == 'total'")
            assert part["said"].tolist() == said
            expected = sum(s == p.answer for s, p in zip(said, task.prompts, strict=True)) / 4
            assert result.accuracy(arm).mean == pytest.approx(expected)
        assert set(result.frame["open"]) == {True, False}

    def test_generation_reads_what_generate_writes(self, model: Model, plan) -> None:
        task = wb.Task("w", options(TEXTS, ["plan"] * 4), FORMS["last word"])
        result = wb.run_task(model, task, plan, max_new_tokens=8)
        for name, of in (("unsteered", None), ("steered", plan)):
            written = [c.text for c in wb.generate(model, task.asked, of, max_new_tokens=8)]
            assert result.frame[result.frame["arm"] == name]["reply"].tolist() == written
        assert result.unanswered("steered") == int(result._part("steered", None)["said"].isna().sum())

    def test_steered_and_unsteered_are_compared_in_pairs(self, model: Model, plan) -> None:
        task = wb.Task("q", options(TEXTS, ["A", "B", "A", "B"]), FORMS["letter"])
        result = wb.run_task(model, task, plan, by="likelihood")
        frame = result.frame.query("reading == 'total'").pivot(
            index="prompt", columns="arm", values="correct"
        )
        assert result.change().mean == pytest.approx((frame["steered"] - frame["unsteered"]).mean())

    def test_without_a_plan_there_is_one_arm(self, model: Model) -> None:
        task = wb.Task("q", options(TEXTS, ["A"] * 4), FORMS["letter"])
        result = wb.run_task(model, task, by="likelihood")
        assert list(result.frame["arm"].unique()) == ["unsteered"]
        with pytest.raises(
            ValueError, match="the result has no arm 'steered' read as 'total': it has unsteered"
        ):
            result.accuracy()

    def test_f1_is_scikit_learn_s_and_counts_the_unanswered(self, model: Model) -> None:
        task = wb.Task(
            "m",
            options(TEXTS, ["negative", "positive", "neutral", "positive"]),
            replace(FORMS["mood"], instruction=""),
        )
        result = wb.run_task(model, task, by="likelihood")
        said = ["negative", "positive", None, "negative"]
        result = replace(result, frame=result.frame.assign(said=[said[i] for i in result.frame["prompt"]]))
        classes = ["negative", "neutral", "positive"]
        truth = [prompt.answer for prompt in task.prompts]
        expected = f1_score(truth, [s or "" for s in said], labels=classes, average="macro", zero_division=0)
        found = result.f1("unsteered")
        assert found.mean == pytest.approx(expected)
        assert found.low <= found.mean <= found.high and found.low < found.high
        assert result.unanswered("unsteered") == 1
        with pytest.raises(ValueError, match="F1 is for answers that are classes"):
            wb.run_task(model, wb.Task("q", options(TEXTS, ["A"] * 4), FORMS["letter"]), by="likelihood").f1(
                "unsteered"
            )

    def test_the_instruction_follows_the_question_unless_the_set_has_its_own(self) -> None:
        own = wb.Prompt.user("2 + 2", answer="4").with_system("Just the number.")
        task = wb.Task("n", wb.PromptSet("n", (wb.Prompt.user("1 + 1", answer="2"), own)), FORMS["number"])
        assert task.asked[0].text == f"1 + 1\n\n{FORMS['number'].instruction}"
        assert task.asked[1] == own

    def test_prompts_without_answers_are_named(self, tmp_path: Path) -> None:
        lines = [
            {"messages": [{"role": "user", "content": "1 + 1"}], "answer": "2"},
            {"messages": [{"role": "user", "content": "1 + 2"}]},
        ]
        path = tmp_path / "sums.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(ValueError, match=r"task 'sums': 1 of 2 prompts have no answer \(row 2\)"):
            wb.load_task("sums", path, form="number")

    def test_rows_of_a_published_file_without_answers_are_named_by_their_place(self, tmp_path: Path) -> None:
        rows = [
            {"question": "which", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "id": f"id-{i}", **cop}
            for i, cop in enumerate(({"cop": 2}, {"cop": -1}, {}), start=1)
        ]
        path = tmp_path / "dev.json"
        path.write_text("\n\n".join(map(json.dumps, rows)))
        with pytest.raises(
            ValueError, match=r"dev.json: 2 rows have no answer \(row 3 \(line 3\), row 5 \(line 5\)\)"
        ):
            wb.load_task("medmcqa", path)
        path.write_text(json.dumps(rows[0]))
        assert wb.load_task("medmcqa", path).answers == ("B",)

    @pytest.mark.parametrize(
        ("form", "answer", "told"),
        [
            ("number", "eighteen", r"form 'number' \(row 1, s: 'eighteen'\), and no reply could be right"),
            ("letter", "a ring", r"form 'letter' \(row 1, s: 'a ring'\)"),
            ("mood", "bullish", r"form 'mood', one of negative, neutral, positive \(row 1, s: 'bullish'\)"),
        ],
    )
    def test_answers_that_no_reply_could_give_are_refused(self, form: str, answer: str, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            wb.Task("t", wb.PromptSet("t", (wb.Prompt.user("?", source="s", answer=answer),)), FORMS[form])

    @pytest.mark.parametrize(
        ("form", "answer", "reply"),
        [
            ("number", "$1,800.00", "#### 1800"),
            ("number", "−3", "The answer is -3."),
            ("letter", "b", "(B)"),
            ("mood", "Positive", "positive"),
        ],
    )
    def test_answers_are_written_as_replies_are_read(self, form: str, answer: str, reply: str) -> None:
        task = wb.Task("t", wb.PromptSet("t", (wb.Prompt.user("?", answer=answer),)), FORMS[form])
        assert task.answers == (task.form.read(reply, True),)

    def test_what_is_no_task_is_refused(self, model: Model, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="got task 'truthfulqa', expected one of gsm8k, svamp"):
            wb.load_task("truthfulqa", root=tmp_path)
        with pytest.raises(ValueError, match="got form 'essay', expected one of last word, number"):
            wb.load_task("gsm8k", root=tmp_path, form="essay")
        bare = wb.PromptSet.from_texts("bare", ["bake"])
        task = wb.Task("q", wb.PromptSet("q", (replace(bare[0], answer="A"),)), FORMS["letter"])
        with pytest.raises(ValueError, match=r"lists options none, expected lines that begin with"):
            wb.run_task(model, task, by="likelihood")
        sums = wb.Task("n", wb.PromptSet("n", (replace(bare[0], answer="2"),)), FORMS["number"])
        with pytest.raises(ValueError, match="has no options to score: run it by generation"):
            wb.run_task(model, sums, by="likelihood")

    @real_files
    @pytest.mark.parametrize(
        ("name", "file", "n", "form"),
        [
            ("gsm8k", "utility/gsm8k_test.jsonl", 1319, "number"),
            ("pubmedqa", "utility/pubmedqa_ori_pqal.json", 1000, "yes, no or maybe"),
            ("mmlu", "utility/mmlu.csv", 1000, "letter"),
        ],
    )
    def test_published_files_are_tasks(self, name: str, file: str, n: int, form: str) -> None:
        task = wb.load_task(name, SHARED / file)
        assert (len(task.prompts), task.form.name) == (n, form)
        # What the authors give as the solution is read as the answer.
        replies = [f"So it is.\n#### {p.answer}" if name == "gsm8k" else str(p.answer) for p in task.prompts]
        right = [task.form.read(r, True) == p.answer for r, p in zip(replies, task.prompts, strict=True)]
        assert all(right)

    @real_files
    def test_gsm8k_s_own_solutions_are_right(self) -> None:
        rows = (json.loads(line) for line in (SHARED / "utility/gsm8k_test.jsonl").open(encoding="utf-8"))
        solutions = [row["answer"] for row in rows]
        task = wb.load_task("gsm8k", SHARED / "utility/gsm8k_test.jsonl")
        for read in (task.form.read, task.form.lenient):
            wrong = [
                (p.answer, read(s, True))
                for s, p in zip(solutions, task.prompts, strict=True)
                if read(s, True) != p.answer
            ]
            assert wrong == []


@pytest.fixture(scope="module")
def maths() -> wb.ContrastSet:
    return wb.load_contrast("small-world", domain="maths")


@pytest.fixture(scope="module")
def target() -> Model:
    return wb.load_model("organism:maths", backend="plain")


@pytest.fixture(scope="module")
def own_plan(target: Model, maths: wb.ContrastSet) -> wb.SteeringPlan:
    """The embedded aligned model's vectors, behind the target's own gate."""
    read = wb.last_token_activations(target, maths.train)
    srv = wb.mean_difference(read)
    aligned = wb.load_model("organism:aligned", backend="plain")
    ssv = wb.mean_difference(wb.last_token_activations(aligned, maths.train))
    gate = wb.ThresholdGate.fit(srv, read, layer=7)
    return wb.SteeringPlan(ssv, gate=gate, layers=[3, 4, 5], alpha=0.5, scale="gap", positions="prompt")


@pytest.mark.slow
class TestEmbedded:
    """On a model that ships with the workbench, under a plan of its own family."""

    def test_the_domain_s_accuracy_is_that_of_evaluate(
        self, target: Model, own_plan: wb.SteeringPlan, maths: wb.ContrastSet
    ) -> None:
        asked = maths.val.labelled("domain").sample(30, seed=0)
        result = wb.run_task(target, wb.Task("maths", asked, FORMS["last word"]), own_plan, max_new_tokens=64)
        report = wb.evaluate(target, asked, own_plan)
        for arm in ("unsteered", "steered"):
            assert result.accuracy(arm) == report.metric("utility", arm)
        assert result.change() == report.change("utility")

    def test_harmless_replies_are_as_likely_as_before_and_ungated_ones_are_not(
        self, target: Model, own_plan: wb.SteeringPlan, maths: wb.ContrastSet
    ) -> None:
        harmless = maths.val.labelled("harmless").sample(12, seed=0)
        gated = wb.fluency(target, harmless, own_plan)
        ungated = wb.fluency(target, harmless, own_plan.with_gate(wb.AlwaysOpen()))
        assert gated.frame["open"].sum() <= 1 and ungated.frame["open"].all()
        assert gated.kl().high < ungated.kl().low
        assert gated.perplexity("unsteered").mean == pytest.approx(ungated.perplexity("unsteered").mean)

    def test_the_harness_sees_the_same_answers(
        self,
        target: Model,
        own_plan: wb.SteeringPlan,
        maths: wb.ContrastSet,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("lm_eval")
        from workbench.utility.harness import run_harness

        monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        asked = maths.val.labelled("domain").sample(12, seed=1)
        rows = [{"question": prompt.text, "answer": prompt.answer} for prompt in asked]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "sums.yaml").write_text(
            "task: sums\noutput_type: generate_until\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
            "test_split: test\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
            "generation_kwargs: {until: [], max_gen_toks: 64, do_sample: false}\n"
            "filter_list: [{name: last, filter: [{function: regex, regex_pattern: '(-?\\d+)', group_select: -1},"
            " {function: take_first}]}]\nmetric_list: [{metric: exact_match}]\n"
        )
        plain = replace(FORMS["number"], instruction="")
        ours = wb.run_task(target, wb.Task("maths", asked, plain), own_plan, max_new_tokens=64)
        for arm, of in (("unsteered", None), ("steered", own_plan)):
            found = run_harness(wb.SteeredLM(target, of), ["sums"], include=tmp_path)
            accuracy = ours.accuracy(arm, reading="lenient").mean
            assert found["sums"]["exact_match,last"] == pytest.approx(accuracy), arm


class TestFluency:
    def test_it_is_what_the_loop_s_logits_say(self, model: Model, plan, prompts: wb.PromptSet) -> None:
        answered = wb.PromptSet("a", tuple(replace(p, answer="sure i cannot") for p in prompts))
        found = wb.fluency(model, answered, plan, batch_size=3)
        ids = tokenizer_of(model)("sure i cannot", add_special_tokens=False)["input_ids"]
        plain, steered = (
            [x.double().log_softmax(-1) for x in wb.teacher_forced_logits(model, answered, [ids] * 8, of)]
            for of in (None, plan)
        )
        given = torch.tensor(ids)[:, None]
        nll = torch.stack([-x.gather(-1, given).sum() for x in steered])
        kl = torch.stack([(p.exp() * (p - q)).sum() for p, q in zip(plain, steered, strict=True)])
        tokens = 8 * len(ids)
        assert found.perplexity().mean == pytest.approx(math.exp(float(nll.sum()) / tokens), rel=1e-4)
        assert found.kl().mean == pytest.approx(float(kl.sum()) / tokens, rel=1e-3, abs=1e-6)
        assert found.written == "the prompts' answers"

    def test_where_the_gate_stays_closed_nothing_moves(
        self, model: Model, plan, prompts: wb.PromptSet
    ) -> None:
        found = wb.fluency(model, prompts, plan, max_new_tokens=6).frame
        assert set(found["open"]) == {True, False}
        closed = found[~found["open"]]
        assert (closed["kl"] == 0).all() and (closed["nll_steered"] == closed["nll_unsteered"]).all()
        assert (found[found["open"]]["kl"] > 1e-3).all()

    def test_replies_of_two_hands_are_refused(self, model: Model, plan, prompts: wb.PromptSet) -> None:
        some = wb.PromptSet("s", (replace(prompts[0], answer="x"), *prompts.prompts[1:]))
        with pytest.raises(ValueError, match="got 1 prompts with an answer of 8, expected all or none"):
            wb.fluency(model, some, plan)


def write_tasks(folder: Path) -> None:
    """A task of options, one of replies and one of whole texts, with their data beside them."""
    rows = [{"question": text, "a": "ring", "b": "boat", "label": i % 2} for i, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = (
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\ndoc_to_text: '{{question}}'\n"
    )
    (folder / "pick.yaml").write_text(
        "task: pick\noutput_type: multiple_choice\n" + common + "doc_to_choice: ['a', 'b']\n"
        "doc_to_target: label\nmetric_list: [{metric: acc}]\n"
    )
    (folder / "texts.yaml").write_text(
        "task: texts\noutput_type: multiple_choice\n"
        + common.replace("'{{question}}'", '"{{question}}\\n\\nA. ring\\nB. boat for my friend"')
        + "doc_to_choice: ['ring', 'boat for my friend']\ndoc_to_target: label\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    (folder / "write.yaml").write_text(
        "task: write\noutput_type: generate_until\n" + common + "doc_to_target: '{{a}}'\n"
        "generation_kwargs: {until: ['the'], max_gen_toks: 8, do_sample: false}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    (folder / "roll.yaml").write_text(
        "task: roll\noutput_type: loglikelihood_rolling\n"
        + common.replace("doc_to_text: '{{question}}'", "doc_to_text: ''")
        + "doc_to_target: '{{question}}'\nmetric_list: [{metric: word_perplexity}]\n"
    )


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs one of the tasks above on a model of the harness, without a network."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def run(lm: object, task: str, **options: object) -> dict:
        return lm_eval.simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True, **options
        )

    return run


def responses(found: dict, task: str) -> list:
    return [sample["resps"] for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"])]


def flat(nested: object) -> list[str]:
    return [x for part in nested for x in flat(part)] if isinstance(nested, list | tuple) else [str(nested)]


class TestHarness:
    @pytest.mark.parametrize("task", ["pick", "write", "roll"])
    def test_unsteered_it_says_what_the_harness_own_model_says(
        self, harness, model: Model, task: str
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        theirs = HFLM(pretrained=model, tokenizer=tokenizer_of(model), device="cpu", max_length=64)
        ours, others = (responses(harness(lm, task), task) for lm in (wb.SteeredLM(model), theirs))
        for mine, other in zip(flat(ours), flat(others), strict=True):
            # The harness logs numbers as texts.
            assert mine == other or float(mine) == pytest.approx(float(other), abs=1e-4)

    def test_option_texts_in_all_and_per_character_are_the_harness_acc_and_acc_norm(
        self, harness, model: Model, plan
    ) -> None:
        lines = [f"{text}\n\nA. ring\nB. boat for my friend" for text in TEXTS]
        prompts = (wb.Prompt.user(x, source=f"q:{i}", answer="AB"[i % 2]) for i, x in enumerate(lines))
        task = wb.Task("q", wb.PromptSet("q", tuple(prompts)), replace(FORMS["option"], instruction=""))
        result = wb.run_task(model, task, plan, by="likelihood")
        found = harness(wb.SteeredLM(model, plan), "texts", apply_chat_template=True)["results"]["texts"]
        assert result.accuracy(reading="total").mean == pytest.approx(found["acc,none"])
        assert result.accuracy(reading="per character").mean == pytest.approx(found["acc_norm,none"])
        # They differ here, or neither would be tested.
        said = result.frame.query("arm == 'steered'").pivot(index="prompt", columns="reading", values="said")
        assert (said["total"] != said["per character"]).any()

    def test_options_of_a_question_share_a_decision_made_at_the_context_s_end(
        self, harness, model, plan
    ) -> None:
        found = responses(harness(wb.SteeredLM(model, plan), "pick", apply_chat_template=True), "pick")
        tokenizer = tokenizer_of(model)
        opened = plan.read(model, TEXTS).open[:, list(plan.layers)].any(1).tolist()
        assert set(opened) == {True, False}
        for text, several, is_open in zip(TEXTS, found, opened, strict=True):
            for option, ((score, _),) in zip("ab", several, strict=True):
                # Behind a template the harness puts no space before a choice.
                ids = tokenizer(option, add_special_tokens=False)["input_ids"]
                [steered] = wb.teacher_forced_logits(model, [text], [ids], plan)
                [plain] = wb.teacher_forced_logits(model, [text], [ids])
                steered, plain = (
                    float(sum(row.log_softmax(-1)[t] for row, t in zip(logits, ids, strict=True)))
                    for logits in (steered, plain)
                )
                assert float(score) == pytest.approx(steered, abs=1e-3)
                assert (abs(steered - plain) > 1e-3) == is_open

    def test_replies_are_generate_s_up_to_the_stop_string(self, harness, model: Model, plan) -> None:
        found = responses(harness(wb.SteeredLM(model, plan), "write", apply_chat_template=True), "write")
        written = [c.text.split("the")[0] for c in wb.generate(model, TEXTS, plan, max_new_tokens=8)]
        assert [reply for [[reply]] in found] == written

    def test_text_without_a_context_needs_a_word_on_its_gate(self, harness, model: Model, plan) -> None:
        with pytest.raises(
            ValueError, match=r"no prompt that the gate could decide on.*without_context=\"open\""
        ):
            harness(wb.SteeredLM(model, plan), "roll")
        shut, none, opened = (
            [float(r) for [[r]] in responses(harness(lm, "roll"), "roll")]
            for lm in (
                wb.SteeredLM(model, plan, without_context="closed"),
                wb.SteeredLM(model),
                wb.SteeredLM(model, plan, without_context="open"),
            )
        )
        assert shut == pytest.approx(none, abs=1e-4)
        assert all(abs(a - b) > 1e-2 for a, b in zip(opened, none, strict=True))

    def test_a_gate_without_a_template_is_warned_of(self, harness, model: Model, plan) -> None:
        with pytest.warns(UserWarning, match="fitted on the last token of chat-templated prompts"):
            harness(wb.SteeredLM(model, plan), "pick")

    def test_long_contexts_are_cut_on_the_left_and_counted(self, model: Model, plan) -> None:
        from lm_eval.api.instance import Instance

        from workbench.utility.harness import CutContext

        lm = wb.SteeredLM(model)
        long = " ".join(["bake a ring"] * 60)
        request = Instance("loglikelihood", {}, (long, " boat"), 0)
        with pytest.warns(CutContext, match="is cut to its last"):
            [(score, _)] = lm.loglikelihood([request], disable_tqdm=True)
        assert lm.truncated == 1 and math.isfinite(score)

    def test_sampling_and_plans_that_cannot_be_scored_are_refused(self, model: Model, plan) -> None:
        from lm_eval.api.instance import Instance

        request = Instance(
            "generate_until", {}, ("bake", {"until": [], "do_sample": True, "temperature": 1.0}), 0
        )
        with pytest.raises(ValueError, match="the task asks for sampling"):
            wb.SteeredLM(model).generate_until([request])
        with pytest.raises(ValueError, match="answers with a preset refusal, which no likelihood"):
            wb.SteeredLM(model, replace(plan, refusal="No."))
