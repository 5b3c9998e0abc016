"""DREAL: a critic rates every attention module, and the modules learn to be rated well.

Deep Reinforced Attention Learning for Quality-Aware Visual Recognition, Li and Chen, ECCV 2020. We
have the paper's supplement and abstract, not its body: the formulas are assumptions (docs/dreal.md,
where each one is marked), and no claim of faithfulness is made for them.

An attention module is an actor: its state is the feature it looks at, its action the attention it
puts out. Each step

1. the net sees the batch; the classification loss L_c trains the net, and the quality loss L_q,
   minus the mean critique, trains the parameters of the attention modules;
2. the reward R of a module is how much of the probability of the truth is lost when its attention
   is replaced by its mean (``reward`` and ``counterfactuals`` beside this file);
3. the regression loss L_r trains the critic to predict the rewards.

The critic is needed in training only; what is evaluated and exported is the plain net.

Legend: B batch, A logits, L modules, Q critique, R reward.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from gluon_attn.blocks import AttentionBlock
from gluon_attn.core.batch import Batch
from gluon_attn.core.registry import unknown_name
from gluon_attn.losses.classification import objective
from gluon_attn.method import METHODS, Method, Optimization, Outputs, State, Task, sum_of
from gluon_attn.nets.attention import attention_blocks
from gluon_attn.papers.dreal.counterfactuals import Counterfactuals, Group
from gluon_attn.papers.dreal.critic import Critic, judge, quality_loss, regression_loss, vector_size
from gluon_attn.papers.dreal.reward import chance_reward, replacement_reward

CRITIC = "critic"  # name of the critic's trainer
CHOICES = {"group": ("net", "stage"), "critic_start": ("chance", "zero")}
MEANS = ("critique", "reward", "critic_error")  # that are reported of every module
Array = Any  # NDArray


class Experience(NamedTuple):
    """What a step leaves for the critic: L vectors, rewards ``(B, modules)``, known ``(B,)``."""

    vectors: list[Array]
    reward: Array
    known: Array


def chosen_modules(net: gluon.HybridBlock, stages: str = "all") -> list[tuple[str, AttentionBlock]]:
    """Return the attention modules that are chains of gates, by name, in network order.

    ``stages`` is ``'all'`` or names joined by commas: ``'conv4_x,conv5_x'`` or ``'stage3,stage4'``.
    """
    modules = [(name, block) for name, block in attention_blocks(net) if block.gates]
    if not modules:
        raise ValueError(
            f"{type(net).__name__} has no attention module with gates; DREAL needs a net such as "
            "se_resnet50 (model_options.attention=se gives any ResNet of the zoo a block)"
        )
    present = sorted({block.slot.stage for _, block in modules})
    if stages == "all":
        return modules
    papers = {stage: f"conv{stage + 1}_x" for stage in present}  # conv2_x is stage 1
    names = {name: s for s in present for name in (papers[s], f"stage{s}")}
    wanted = [name.strip() for name in stages.split(",") if name.strip()]
    for name in wanted or [stages]:
        if name not in names:
            raise ValueError(unknown_name("stage", name, [*papers.values(), "all"]))
    kept = {names[name] for name in wanted}
    return [(name, block) for name, block in modules if block.slot.stage in kept]


@METHODS.register("dreal")
class DREAL(Method):
    """Classification, quality and regression loss in turn; see the module's docstring."""

    OPTIONS = {
        "stages": "all",  # or conv4_x,conv5_x
        "quality_weight": 1.0,  # lambda of L_c + lambda L_q
        "penalty": 1.0,  # gamma: a wrong prediction has reward -gamma
        "reward": "ratio",  # or "sign"
        "hidden": 128,  # of the critic
        "critic_start": "chance",  # its first rating of all modules: a guess's reward, or "zero"
        "spatial_grid": 7,  # cells per side of what the critic sees of a spatial map
        "critic_optimizer": "adam",
        "critic_lr": 1e-3,
        "sample": 0,  # modules with a reward in each step; 0: all
        "sample_seed": 0,
        "group": "net",  # counterfactuals in one batch: of the whole net, or of each stage
    }
    FLOAT32_ONLY = "because its rewards are small differences of logits"

    def __init__(
        self, net: gluon.HybridBlock, ctx: Iterable[mx.Context], task: Task,
        optimization: Optimization, *, options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        options = dict(options or {})
        if isinstance(options.get("stages"), (tuple, list)):  # "key=a,b" gives a tuple
            options["stages"] = ",".join(options["stages"])
        super().__init__(net, ctx, task, optimization, options=options)
        modules = chosen_modules(net, self.options["stages"])
        self.names = tuple(name for name, _ in modules)
        blocks = [block for _, block in modules]
        self._check_options()
        self._groups = self._make_groups(blocks)
        gates = [tuple(gate for _, gate in block.gates) for block in blocks]
        self.counterfactuals = Counterfactuals(net, gates, self._groups)
        self._make_critic(blocks)
        self._classification = objective(task.schema)
        penalty, form = self.options["penalty"], self.options["reward"]
        self._reward = replacement_reward(task.schema, penalty, form)
        self.steps, self._wanted = 0, self._groups
        self._experience: list[Experience] = []  # of each device
        self._sums: dict[Group, Array] = {}

    def _check_options(self) -> None:
        count = self.options["sample"]
        if not 0 <= count <= len(self.names):
            raise ValueError(f"sample={count}: valid are 0 (all) to {len(self.names)}")
        self.check_choices(CHOICES)
        self.check_at_least(quality_weight=0, spatial_grid=1, critic_lr=0)
        known = mx.optimizer.Optimizer.opt_registry
        if self.options["critic_optimizer"] not in known:
            raise ValueError(unknown_name("optimizer", self.options["critic_optimizer"], known))

    def _make_groups(self, blocks: Sequence[AttentionBlock]) -> list[Group]:
        everything = range(len(blocks))
        if self.options["sample"]:
            return [(module,) for module in everything]
        if self.options["group"] == "net":
            return [tuple(everything)]
        of_stage: dict[int, list[int]] = {}
        for module, block in enumerate(blocks):
            of_stage.setdefault(block.slot.stage, []).append(module)
        return [tuple(group) for group in of_stage.values()]

    def _make_critic(self, blocks: Sequence[AttentionBlock]) -> None:
        grid = self.options["spatial_grid"]
        sizes = [vector_size(block.gates, block.channels, grid) for block in blocks]
        chance = chance_reward(self.task.schema, self.options["penalty"])
        start = chance if self.options["critic_start"] == "chance" else 0.0
        self.critic = Critic(sizes, self.options["hidden"], start)
        self.critic.initialize(ctx=self.ctx)
        gates = [block.gates for block in blocks]
        self._judge = judge(gates, self.critic, self.counterfactuals.states, grid)
        self.critic.hybridize(static_alloc=True, static_shape=True)

    # -- training ----------------------------------------------------------------------------------
    def begin_phase(self, phase: str) -> None:
        """Train the whole net; the critic has a trainer of its own beside it."""
        if phase != CRITIC:  # which a checkpoint names like a phase
            super().begin_phase(phase)
        if CRITIC not in self.trainers:
            settings = {"learning_rate": self.options["critic_lr"]}
            self.trainers[CRITIC] = self.new_trainer(
                self.critic.collect_params(), self.options["critic_optimizer"], settings
            )

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._sums = {}

    def forward(self, image: Array) -> Outputs:
        """Return the named outputs of the net, and under ``'seen'`` what counterfactuals need."""
        seen = self.counterfactuals.view.run({"data": image})
        return dict(seen, seen=seen)

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        """Return L_c and lambda L_q, and keep the rewards for the critic."""
        seen = outputs["seen"]
        judged = self._judge.run(seen)
        critique = judged.pop("critique")
        self._remember(seen, [vector.detach() for vector in judged.values()], batch)
        weight = self.options["quality_weight"]
        return {
            "classification": self._classification(outputs["logits"], batch.label, batch.mask),
            "quality": weight * quality_loss(critique),
        }

    def _remember(self, seen: dict[str, Array], vectors: list[Array], batch: Batch) -> None:
        """Compute the rewards, with the weights that the net has now."""
        rewards = []
        with autograd.pause(train_mode=True):  # as inference, MXNet would reorder the weights
            for group in self._wanted:
                without, logits = self.counterfactuals.logits(group, seen)
                for replaced in without:
                    reward, known = self._reward(logits, replaced, batch.label, batch.mask)
                    rewards.append(reward)
            self._experience.append(Experience(vectors, mx.nd.stack(*rewards, axis=1), known))

    def train_step(self, batch: Batch, held_out: Batch | None = None) -> Outputs:
        """Update the net, then the critic.

        Returns summed losses ``classification``, ``quality`` (times its weight), their total
        ``loss``, and ``regression``, the critic's own.
        """
        self._wanted = self.sampled(self.steps)
        self.steps += 1
        self._experience = []
        totals = super().train_step(batch)
        totals["regression"] = self._train_critic(self.rows(batch))
        return totals

    def sampled(self, step: int) -> list[Group]:
        """Return the groups of modules that get a reward in a step.

        With ``sample`` = k these are k of the L modules, every choice being as likely as every
        other. They depend on ``sample_seed`` and the number of the step alone.
        """
        if not self.options["sample"]:
            return self._groups
        rng = np.random.default_rng((self.options["sample_seed"], step))
        chosen: Any = rng.choice(len(self.names), self.options["sample"], replace=False)
        return [(module,) for module in sorted(chosen.tolist())]

    def _train_critic(self, samples: int) -> Array:
        """Update the critic from what the step has seen; return its summed loss."""
        modules = tuple(module for group in self._wanted for module in group)
        critiques, losses = [], []
        with autograd.record():
            for vectors, reward, known in self._experience:
                critiques.append(_columns(self.critic(*vectors), modules, len(self.names)))
                losses.append(regression_loss(critiques[-1], reward, known))
        autograd.backward(losses)
        self.trainers[CRITIC].step(samples)
        with autograd.pause():
            for critique, seen in zip(critiques, self._experience):
                self._count(modules, critique, seen)
            return sum_of([loss.sum().as_in_context(self.ctx[0]) for loss in losses])

    # -- what is known about it --------------------------------------------------------------------
    def _count(self, modules: Group, critique: Array, seen: Experience) -> None:
        """Add up what is reported of every module, and images with a label behind it."""
        found = {"critique": critique, "reward": seen.reward}
        found["critic_error"] = (critique - seen.reward).square()
        known = seen.known.expand_dims(1)
        rows = [(known * found[name]).sum(axis=0) for name in MEANS]
        sums = mx.nd.stack(*rows, known.sum().broadcast_like(rows[0])).as_in_context(self.ctx[0])
        self._sums[modules] = self._sums[modules] + sums if modules in self._sums else sums

    def report(self) -> dict[str, dict[str, float | None]]:
        """Return critique, reward and squared error of every module, means over the epoch.

        A module that was not sampled has None.
        """
        sums = np.zeros((len(MEANS) + 1, len(self.names)))
        for modules, found in self._sums.items():
            sums[:, list(modules)] += found.asnumpy()
        *rows, images = self.workers.total("critic", sums).tolist()
        return {
            key: {n: s / k if k else None for n, s, k in zip(self.names, row, images)}
            for key, row in zip(MEANS, rows)
        }

    def state(self) -> State:
        """Return the critic's parameters and the number of steps, on which sampling depends."""
        mx.nd.waitall()
        critic = self.critic._collect_params_with_prefix()
        state = {f"critic/{n}": p.data(self.ctx[0]).asnumpy() for n, p in critic.items()}
        return dict(super().state(), steps=np.array(self.steps, np.int64), **state)

    def load_state(self, state: State) -> None:
        super().load_state(state)
        critic = self.critic._collect_params_with_prefix()
        saved = {n[len("critic/") :]: a for n, a in state.items() if n.startswith("critic/")}
        if {n: a.shape for n, a in saved.items()} != {n: p.shape for n, p in critic.items()}:
            raise ValueError(
                f"the state is of a critic of {sum(n.endswith('_weight') for n in saved) - 1} "
                f"modules, this one rates {len(self.names)} ({', '.join(self.names)}) with hidden="
                f"{self.options['hidden']}; use the same stages, hidden and spatial_grid"
            )
        for name, parameter in critic.items():
            parameter.set_data(mx.nd.array(saved[name], dtype=saved[name].dtype))
        self.steps = int(state["steps"])


def _columns(critique: Array, modules: Group, count: int) -> Array:
    """Return the columns of ``critique (B, L)`` that belong to ``modules``."""
    if modules == tuple(range(count)):
        return critique
    return mx.nd.concat(*[critique.slice_axis(axis=1, begin=m, end=m + 1) for m in modules], dim=1)
