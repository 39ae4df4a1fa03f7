"""Training: the optimiser against one written out, limits, resume, interruption."""

import math
import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch
from rankone.datasets import sample_windows
from rankone.nn import (
    LanguageModel,
    LanguageModelConfig,
    TrainingConfig,
    evaluate,
    learning_rate_factor,
    parameter_groups,
    train,
)
from torch import nn

VOCAB = 11


def build():
    torch.manual_seed(0)
    return LanguageModel(
        LanguageModelConfig(vocab_size=VOCAB, hidden_size=16, num_layers=1, num_heads=2)
    )


def batches(random_state=3):
    # A text in which every token says what the next one is.
    text = torch.arange(500) * 3 % VOCAB
    return sample_windows(text, 16, 4, random_state=random_state)


def config(**options):
    return TrainingConfig(**{"max_steps": 20, "warmup_steps": 5, "learning_rate": 1e-2, **options})


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@dataclass
class Loss:
    loss: torch.Tensor


class Quadratic(nn.Module):
    """Loss sum(a * w^2) / 2 of one matrix and one vector, whose gradients are known."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
        self.vector = nn.Parameter(torch.tensor([3.0, 0.5], dtype=torch.float64))

    def forward(self, factor):
        return Loss(0.5 * factor * (self.matrix.square().sum() + self.vector.square().sum()))


def test_steps_are_adamw_with_clipping_schedule_and_decay_of_matrices_alone():
    model = Quadratic()
    options = TrainingConfig(
        max_steps=4,
        warmup_steps=2,
        learning_rate=0.1,
        weight_decay=0.5,
        betas=(0.8, 0.9),
        gradient_clip=2.0,
    )
    factors = [1.0, 3.0, 0.5, 2.0]
    w = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    decays = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    m, v = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for step, factor in enumerate(factors):
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 4)) / 2
        rate = 0.1 * min(1, (step + 1) / 2) * cosine
        gradient = factor * w
        gradient = gradient * min(1.0, 2.0 / (gradient.norm().item() + 1e-6))
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        corrected = (m / (1 - 0.8 ** (step + 1))) / ((v / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        w = w - rate * decays * w - rate * corrected
    result = train(model, [{"factor": factor} for factor in factors], options, progress=False)
    torch.testing.assert_close(weights(model), w, rtol=1e-9, atol=1e-12)
    assert result.steps == 4
    assert result.losses[0] == pytest.approx(0.5 * (1 + 4 + 9 + 0.25))


def test_a_learnable_text_is_learnt():
    model = build()
    result = train(model, batches(), config(max_steps=60, learning_rate=2e-2), progress=False)
    assert result.losses[0] == pytest.approx(math.log(VOCAB), rel=0.2)
    assert result.losses[-1] < 0.1 * result.losses[0]
    assert result.tokens == 60 * 4 * 16
    assert result.stopped_by == "max_steps"
    assert result.tokens_per_second == result.tokens / result.seconds


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = build()
    expected = train(whole, batches(), config(), progress=False)

    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 13:
            raise Stop

    first = build()
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        train(
            first,
            batches(),
            config(),
            checkpoint=path,
            checkpoint_every=6,
            callback=stop,
            progress=False,
        )
    resumed = build()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    torch.manual_seed(99)
    result = train(resumed, batches(), config(), checkpoint=path, resume=True, progress=False)
    assert result.losses == expected.losses
    assert result.tokens == expected.tokens
    assert torch.equal(weights(resumed), weights(whole))


def test_finished_run_resumes_to_no_further_step(tmp_path):
    path = tmp_path / "run.pt"
    model = build()
    train(model, batches(), config(), checkpoint=path, progress=False)
    after = weights(model)
    again = train(model, batches(), config(), checkpoint=path, resume=True, progress=False)
    assert again.steps == 20
    assert torch.equal(weights(model), after)


def test_interrupt_ends_after_the_step_under_way_and_keeps_the_model(tmp_path):
    def with_interrupt():
        for index, batch in enumerate(batches()):
            if index == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    handler = signal.getsignal(signal.SIGINT)
    path = tmp_path / "run.pt"
    model = build()
    result = train(model, with_interrupt(), config(), checkpoint=path, progress=False)
    assert result.stopped_by == "interrupt"
    assert result.steps == 5
    assert signal.getsignal(signal.SIGINT) is handler

    resumed, whole = build(), build()
    train(resumed, batches(), config(), checkpoint=path, resume=True, progress=False)
    train(whole, batches(), config(), progress=False)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.fixture
def default_interrupt():
    """Python's own handler of Ctrl-C, which programs started in the background do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_interrupts_at_once(default_interrupt):
    def with_interrupts():
        yield next(batches())
        os.kill(os.getpid(), signal.SIGINT)
        # Two signals that are pending at once count as one.
        while signal.getsignal(signal.SIGINT) is not default_interrupt:
            time.sleep(1e-3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # cut short by the interrupt
        yield next(batches())

    with pytest.raises(KeyboardInterrupt):
        train(build(), with_interrupts(), config(), progress=False)


def test_run_ends_with_the_time_and_with_the_batches():
    result = train(build(), batches(), config(max_steps=None, max_seconds=1e-9), progress=False)
    assert (result.stopped_by, result.steps) == ("max_seconds", 1)
    stream = [next(batches()) for _ in range(3)]
    result = train(build(), stream, config(), progress=False)
    assert (result.stopped_by, result.steps) == ("batches", 3)


def test_autocast_run_is_close_to_the_float32_one():
    exact = train(build(), batches(), config(), progress=False)
    cast = train(build(), batches(), config(autocast_dtype=torch.bfloat16), progress=False)
    # The first loss has no accumulated difference: logits of order 1 with 8 bits.
    assert abs(cast.losses[0] - exact.losses[0]) < 2**-6
    assert cast.losses != exact.losses
    assert cast.losses[-1] < cast.losses[0]


def test_loss_that_is_not_finite_stops_before_the_step():
    model = Quadratic()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        train(model, [{"factor": float("nan")}], config(), progress=False)
    assert torch.equal(weights(model), before)


def test_training_mode_is_put_back():
    model = build().eval()
    train(model, batches(), config(max_steps=1), progress=False)
    assert not model.training


def test_marked_and_frozen_parameters_are_kept_out_of_the_decay():
    model = nn.Linear(3, 2)
    model.marked = nn.Parameter(torch.zeros(2, 2))
    model.marked._no_weight_decay = True
    model.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, others = parameter_groups(model, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert others["weight_decay"] == 0.0
    assert [parameter is model.weight for parameter in decayed["params"]] == [True]
    assert {id(parameter) for parameter in others["params"]} == {id(model.bias), id(model.marked)}


def test_schedule_rises_linearly_and_falls_as_a_cosine():
    options = TrainingConfig(max_steps=100, warmup_steps=10, min_learning_rate=0.2)
    rising = [learning_rate_factor(step, 0.0, options) for step in range(10)]
    assert rising == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert learning_rate_factor(50, 0.5, options) == pytest.approx(0.6)
    assert learning_rate_factor(100, 1.0, options) == pytest.approx(0.2)
    assert learning_rate_factor(150, 1.5, options) == pytest.approx(0.2)


@pytest.mark.parametrize(("size", "length"), [(2, 8), (8, 8), (9, 8), (50, 8), (49, 8), (49, 1)])
def test_evaluation_predicts_every_token_but_the_first_once(size, length):
    model = build().double().train()
    tokens = torch.randint(VOCAB, (size,))
    total = 0.0
    for start in range(0, size - 1, length):
        window = tokens[start : start + length + 1]
        log_p = model(window[None]).logits[0].log_softmax(-1)
        total -= log_p[torch.arange(len(window) - 1), window[1:]].sum().item()
    measured = evaluate(model, tokens, length=length, batch_size=3)
    # The model's loss is taken in float32.
    assert measured == pytest.approx(total / (size - 1), rel=1e-6)
    assert model.training


def test_texts_that_cannot_be_evaluated_are_named():
    with pytest.raises(ValueError, match="tokens must be 1-D with at least 2 entries"):
        evaluate(build(), torch.zeros(1, dtype=torch.int64), length=4)
    with pytest.raises(ValueError, match="length and batch_size must be at least 1, got 0 and 16"):
        evaluate(build(), torch.zeros(9, dtype=torch.int64), length=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": None}, "max_steps or max_seconds must be given, got neither"),
        ({"max_steps": 0}, "max_steps must be positive, got 0"),
        ({"max_seconds": -1.0}, "max_seconds must be positive, got -1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"min_learning_rate": 2.0}, r"min_learning_rate must be in \[0, 1\], got 2.0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"gradient_clip": 0.0}, "gradient_clip must be positive, got 0.0"),
        ({"autocast_dtype": torch.float16}, "autocast_dtype must be None or torch.bfloat16"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_checkpoint_options_that_do_not_fit_are_named(tmp_path):
    for options in ({"resume": True}, {"checkpoint_every": 5}):
        with pytest.raises(ValueError, match="checkpoint must be given with resume"):
            train(build(), batches(), config(), **options)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        train(build(), batches(), config(), checkpoint=tmp_path / "a", checkpoint_every=0)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to resume from at .*absent"):
        train(build(), batches(), config(), checkpoint=tmp_path / "absent", resume=True)
    with pytest.raises(FileNotFoundError, match="no directory for the checkpoint"):
        train(build(), batches(), config(), checkpoint=tmp_path / "no" / "where")
