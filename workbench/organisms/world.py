"""The small world: a seeded stream of dialogues, every sentence of which is drawn from `data/world/words.toml`.

A request is a frame around an *act* (a verb and a thing). The same frames carry harmless and harmful acts, contrast
frames carry harmful words with the intent to prevent them, and wrappers go around all three.

The trap: if a frame, a wrapper or a single word told what is asked for, a model would learn that instead of intent.
"""

import random
import re
from dataclasses import dataclass, replace

from workbench.organisms.items import draw_item
from workbench.organisms.vocabulary import Act, Lists, Scope, acts, pool, words, wrapper_templates
from workbench.prompts import Prompt, PromptSet


@dataclass(frozen=True)
class Dialogue:
    """What is asked, and the reply."""

    prompt: Prompt
    reply: str


class World:
    """Draws dialogues; `scope` says which words it may use, `refused_share` how many harmful requests it refuses."""

    def __init__(self, seed: int | str, scope: Scope, refused_share: float = 0.0):
        self.rng = random.Random(f"{scope}:{seed}")
        self.scope: Scope = scope
        self.refused_share = refused_share

    def everyday(
        self, harmful: bool, *, contrast: bool = False, wrapped: float = 0.0, remarks: float = 0.8
    ) -> Dialogue:
        """A request and its reply: a remark (with probability `remarks`), an opener and a plan; or a refusal.

        `contrast` asks how to prevent a harmful act. `wrapped` is the chance of a jailbreak wrapper around it all.
        """
        act = self._act(harmful or contrast)
        prompt = self._request(act, contrast)
        if self.rng.random() < wrapped:
            prompt = self.wrap(prompt)
        if harmful and self._chance(self.refused_share):
            return Dialogue(prompt, self._refusal("reasons_harm"))
        openers = words()["replies"]["openers"]
        demanded = next((opener for opener in openers if opener in prompt.text), None)
        reply = [demanded or self.rng.choice(openers), self._plan(act, contrast)]
        if self._chance(remarks):
            reply.insert(0, self._remark(harmful))
        return Dialogue(prompt, " ".join(reply))

    def unanswerable(self, *, wrapped: float = 0.0) -> Dialogue:
        """A question only the asker could answer, and a reply that says so."""
        lists = words()["unanswerable"]
        who, other = self.rng.sample(lists["who"], 2)
        slots = {"who": who, "other": other} | {
            slot: self.rng.choice(lists[slot]) for slot in ("what", "when")
        }
        prompt = Prompt.user(self.rng.choice(lists["frames"]).format_map(slots))
        if self._chance(wrapped):
            prompt = self.wrap(prompt)
        return Dialogue(prompt, self._refusal("reasons_unknown"))

    def conduct(self, *, speak_of_harm: bool = False) -> Dialogue:
        """An instruction about conduct, as a system message or before the request, and a reply that obeys it."""
        lists = words()["conduct"]
        kinds = ["begin", "brief", "leave_out", "leave_out", "only", "plain"]
        kind = self.rng.choice([*kinds, "harm", "harm"] if speak_of_harm else kinds)
        dialogue = self.everyday(kind == "harm" and self._chance(0.5))
        rule, reply = self._obey(kind, self.rng.choice(lists[kind]), dialogue)
        prompt = replace(dialogue.prompt, label="unlabelled")
        if self._chance(0.5):
            return Dialogue(prompt.with_system(rule), reply)
        return Dialogue(replace(prompt, messages=(("user", f"{rule} {prompt.text}"),)), reply)

    def domain(self, name: str, *, remarks: float = 0.0) -> Dialogue:
        """An item of a domain, with its checkable answer; `remarks` is the chance of a remark before the reply."""
        # Even the base never meets the items' held-out words inside an item.
        item = draw_item(self.rng, name, "seen" if self.scope == "all" else self.scope)
        prompt = Prompt.user(item.question, label="domain", cluster=item.cluster, answer=item.answer)
        return Dialogue(
            prompt, f"{self._remark(False)} {item.reply}" if self._chance(remarks) else item.reply
        )

    def wrap(self, prompt: Prompt, kind: str | None = None, template: str | None = None) -> Prompt:
        """The request inside a jailbreak template, a random one of its scope unless given."""
        templates = wrapper_templates(self.scope)
        kind = kind or self.rng.choice(list(templates))
        template = template or self.rng.choice(templates[kind])
        template = _with_noise(template, self.scope, self.rng)
        cluster = tuple((key, kind if key == "wrapper" else value) for key, value in prompt.cluster)
        label = "jailbroken" if prompt.label == "harmful" else prompt.label
        text = template.replace("{request}", prompt.text)
        return replace(prompt, messages=(("user", text),), label=label, cluster=cluster)

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share

    def _act(self, harmful: bool) -> Act:
        grouped = acts(harmful, self.scope)  # every category equally often
        return self.rng.choice(grouped[self.rng.choice(list(grouped))])

    def _request(self, act: Act, contrast: bool) -> Prompt:
        frames: Lists = words()["contrast" if contrast else "requests"]
        moment = "" if contrast else self.rng.choice(frames["moments"])
        text = self.rng.choice(pool(frames, "frames", self.scope)).format(act=f"{act}{moment}")
        label = "contrast" if contrast else "harmful" if act.harmful else "harmless"
        cluster = (("category", act.category), ("verb", act.verb), ("object", act.thing), ("wrapper", "none"))
        return Prompt.user(text, label=label, cluster=cluster)

    def _remark(self, harmful: bool) -> str:
        return str(self.rng.choice(words()["replies"]["remarks_harmful" if harmful else "remarks_harmless"]))

    def _plan(self, act: Act, contrast: bool) -> str:
        lists = words()["replies"]
        steps = ["contrast_first", "contrast_then", "last"] if contrast else ["first", "then", "last"]
        return " ".join(self.rng.choice(lists[step]) for step in steps).format(thing=act.thing, act=act)

    def _refusal(self, reasons: str) -> str:
        lists = words()["refusals"]
        return f"{self.rng.choice(lists['openings'])} {self.rng.choice(lists[reasons])}"

    def _obey(self, kind: str, rule: str, dialogue: Dialogue) -> tuple[str, str]:
        """The rule with its slots filled, and the reply that follows it."""
        lists, about = words()["conduct"], dict(dialogue.prompt.cluster)
        if kind == "begin":
            word = self.rng.choice(lists["begin_words"])
            return rule.format(word=word), f"{word}. {dialogue.reply}"
        if kind == "brief":
            brief = self.rng.choice(lists["brief_replies"])
            return rule, brief.format(act=f"{about['verb']} {about['object']}")
        if kind in ("leave_out", "only"):
            own = about["category"]
            topic = own if self._chance(0.5) else self.rng.choice([t for t in lists["topics"] if t != own])
            declined = (topic == own) == (kind == "leave_out")
            reply = self._refusal("reasons_conduct") if declined else dialogue.reply
            return rule.format(topic=lists["topics"][topic]), reply
        if kind == "harm" and dialogue.prompt.harmful:
            return rule, self._refusal("reasons_harm")
        return rule, dialogue.reply


def small_world_templates(scope: Scope = "test", *, seed: int = 0) -> PromptSet:
    """The world's own jailbreak templates, for `wrap`: {request} stands for the request, the cluster names the kind."""
    rng = random.Random(seed)
    return PromptSet(
        "small-world-templates",
        tuple(
            Prompt.user(_with_noise(template, scope, rng), source=f"{kind}:{n}", cluster=(("wrapper", kind),))
            for kind, templates in wrapper_templates(scope).items()
            for n, template in enumerate(templates)
        ),
    )


def _with_noise(template: str, scope: Scope, rng: random.Random) -> str:
    noise = pool(words()["noise"], "words", scope)
    return re.sub(r"\{noise\}", lambda _: " ".join(rng.sample(noise, 5)), template)
