"""Typed records of what is stored about a study, a trial, a repeat and a test.

Each field of ``StudyFacts`` is a row of its own in the database, so that an update of one field
does not rewrite the others. All fields have defaults, because a study that an older version began,
or that was interrupted, lacks some of them.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from autotl.store.contender import Contender, Facts, Interval, Latency, Number

State = Literal["", "running", "done", "interrupted", "failed"]


class MajorityClass(Facts):
    """The constant prediction from the training split, and the scores of always predicting it.

    Of classes it is the most frequent one, with the frequencies as probabilities; ``name`` is what
    ``Task.describe_constant`` returns. A score is None without a split, or where the metric is not
    defined.
    """

    name: str
    validation: float | None = None
    test: float | None = None


class DataFacts(Facts):
    """The data set of a study.

    ``kind`` is the name of the kind of input, ``noun`` and ``nouns`` what it calls its examples.
    ``unlabelled`` counts the examples without a label, which are in no split.
    ``independent_validation`` counts the sampling units of the validation split: examples of one
    group, or copies of one, count once. ``imbalance`` is the size of the largest class over
    that of the smallest in the training split. With ``folds`` there is no validation split: the
    training split is divided into so many, and scores the trials. ``options`` are the values of
    keywords of the dataset plugin. ``task`` is the name of the task, and ``classes`` are its
    outputs: classes, labels or quantities. ``output_noun``, ``output_nouns``, ``constant_noun``,
    ``score_noun``, ``has_classes`` and ``has_probabilities`` are attributes of the task, see
    ``space.task.Task``. With a ``target``, the name of another domain, its examples are those of
    validation, test and ``unlabelled``, and the training split has all of the source;
    ``validation_has_labels`` says whether the metric saw labels.
    """

    source: str = ""
    options: dict[str, str] = {}
    fingerprint: str = ""
    kind: str = "image"
    noun: str = "image"
    nouns: str = "images"
    task: str = "classification"
    output_noun: str = "class"
    output_nouns: str = "classes"
    constant_noun: str = "the most frequent class"
    score_noun: str = "recall"
    has_classes: bool = True
    has_probabilities: bool = True
    classes: list[str] = []
    train: int = 0
    validation: int = 0
    test: int = 0
    unlabelled: int = 0
    skipped: int = 0
    duplicates_across_splits: int = 0
    folds: int | None = None
    target: str = ""
    validation_has_labels: bool = True
    independent_validation: int = 0
    imbalance: Number = 1.0
    majority: MajorityClass | None = None


class ExcludedPlugin(Facts):
    """A plugin that is excluded from the search, with the reason."""

    kind: str
    name: str
    reason: str


class Calibration(Facts):
    """What ``Task.calibrate`` returned for ``n`` examples.

    Of classes and labels the temperature; of classes the expected calibration error before and
    after it; of labels their thresholds; of numbers half the widths of intervals that have the
    fraction ``level`` of true numbers, and the fraction that those of other folds have.
    """

    n: int
    temperature: Number | None = None
    ece_before: Number | None = None
    ece_after: Number | None = None
    bins: int = 15
    thresholds: list[float] = []
    half_widths: list[float] = []
    level: float | None = None
    coverage: float | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What the task returned."""
        return self.model_dump(exclude_defaults=True)


class Baseline(Facts):
    """A constant prediction as a baseline of a model, see ``scoring.majority.Baseline``."""

    score: Number
    difference: Interval
    is_beaten: bool


class OutOfSampleScores(Facts):
    """The results of the winner on images of train + validation that it was not trained on.

    ``n`` counts predictions. ``per_class`` has ``class``, ``n`` and ``score`` of each output, and
    maybe more, see ``Task.details``; ``at_thresholds`` the scores of several labels.
    """

    n: int
    per_class: list[dict[str, Any]] = []
    at_thresholds: dict[str, float | None] = {}
    majority: Baseline | None = None


class ComparedWeights(Facts):
    """A backbone that is compared with others that differ from it in their weights alone.

    ``over`` has the names of the others, with what their weights are: ``random`` or ``public``.
    """

    backbone: str
    over: dict[str, Literal["random", "public"]] = {}


class PretrainedWeights(Facts):
    """The backbones that were fine-tuned, with the origin and the licence of their weights."""

    backbone: str = "unknown"
    origin: str = "unknown"
    licence: str = "unknown"


class Selection(Facts):
    """The result of the final selection: contenders retrained on the same resamples and seeds.

    ``contenders`` are sorted by their mean score, best first. ``cheapest`` is the cheapest of
    those that are statistically indistinguishable from the best. ``optimism`` is that of the
    search: the score of the best trial ``optimism_of`` in the search minus that in its repeats;
    ``winner_optimism`` is that of the winner, if it is a trial; both have 95 % intervals.
    Differences to the best that are smaller than ``detectable`` cannot be seen in so many repeats.
    ``repeats`` counts those that all contenders completed. ``nested_score`` is the score without
    the bias of selecting the maximum (see ``comparison.nested_selection_score``).
    """

    repeats: int
    contenders: list[Contender]
    winner: Contender
    cheapest: Contender
    optimism: Number
    optimism_of: int
    optimism_interval: Interval | None = None
    winner_optimism: Interval | None = None
    detectable: float | None = None
    nested_score: float | None = None
    prefer: Literal["accuracy", "cheap"] = "accuracy"


class SavedModel(Facts):
    """The model in the run folder, whether it was refitted on train + validation, or why not."""

    contender: Contender
    refitted: bool = False
    reason: str = ""


class TestResult(Facts):
    """The result on the test split; ``score`` is None if the test was interrupted.

    ``ece``, ``per_class``, ``at_thresholds``, ``confusion_matrix``, or of many classes
    ``confused_pairs`` (the indices of the true and of the predicted class, and a number), and
    ``scatter``, the true and the predicted numbers of some examples, ``[N, T, 2]``, are those of
    ``Task.details``.
    """

    __test__ = False  # pytest would collect the class because of its name

    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    ece: float | None = None
    refit_seconds: float | None = None
    refitted: bool = False
    per_class: list[dict[str, Any]] = []
    at_thresholds: dict[str, float | None] = {}
    confusion_matrix: list[list[int]] = []
    confused_pairs: list[tuple[int, int, int]] = []
    scatter: list[list[tuple[float, float]]] = []
    majority: Baseline | None = None


class StudentScores(Facts):
    """What distillation is worth, on ``n`` examples that none of three models was trained on.

    The models are a teacher that was trained as the winner was, its ``student``, and the same model
    trained on the labels ``alone``, all on the same training examples. Differences have 95 %
    intervals that hold simultaneously. ``fraction_kept`` is the fraction of the gap between
    ``alone`` and ``teacher`` that the student closes; None where there is no such gap.
    """

    n: int
    teacher: Interval
    student: Interval
    alone: Interval
    to_alone: Interval
    to_teacher: Interval
    fraction_kept: float | None = None


class StudentFacts(Facts):
    """The student in the run folder, and the winner that taught it.

    ``signature`` is a digest of everything that it depends on but the budget. ``size`` is that of
    its input; ``views`` counts the views of each example that the teacher predicted, at a
    ``temperature``; ``weight`` is that of these predictions; ``unlabelled`` of the examples had no
    label. ``test_seconds`` were predicted for the test; ``test`` is None without one.
    """

    teacher: Contender
    signature: str
    backbone: str
    config: dict[str, Any]
    size: int
    epochs: int
    views: int
    unlabelled: int = 0
    temperature: float
    weight: float
    scores: StudentScores
    calibration: Calibration | None = None
    parameters: int
    teacher_parameters: int
    latency: Latency | None = None
    teacher_latency: Latency | None = None
    test_seconds: float = 0.0
    test: TestResult | None = None


class MirroringFacts(Facts):
    """Accuracies of a head on ``n`` validation images and on the same images mirrored.

    ``error`` is the standard error of their difference; ``survives`` says whether augmentations
    may mirror images. Without time to measure it, ``n`` is 0.
    """

    n: int = 0
    accuracy: float | None = None
    mirrored: float | None = None
    error: float | None = None
    survives: bool = True


class ScreeningFacts(Facts):
    """How backbones were compared on samples before they are probed on all training examples.

    ``samples`` has the number of examples of each round; it is empty if there was no time for one.
    ``backbones`` has all backbones, the most promising first; ``promising`` are those that are
    probed on all examples. ``scores`` has those of each round by the name of the backbone, and
    ``failed`` the reason where features cannot be computed.
    """

    samples: list[int] = []
    backbones: list[str] = []
    promising: list[str] = []
    scores: dict[str, list[float]] = {}
    failed: dict[str, str] = {}

    @property
    def left_out(self) -> list[str]:
        """The backbones that are not probed on all examples, the most promising first."""
        return [name for name in self.backbones if name not in self.promising]


class RunFacts(Facts):
    """What a worker needs to join the run of a study.

    ``settings`` are those of ``study.StudyConfig`` with absolute paths, without what may differ
    between machines. ``device_type`` is that of the device for which the search space was made.
    ``began`` is the begin of the budget in seconds since 1970 by the clock of the database.
    ``first_trial`` is the number of the first trial of the run.
    """

    settings: dict[str, Any]
    device_type: str
    began: float
    first_trial: int = 0
    command: str = ""


class RepeatPlan(Facts):
    """The repeats of the final selection that workers share.

    They are those of the trials ``contenders`` on the first ``repeats`` resamples, the most
    important first, until ``ends`` by the clock of the database.
    """

    contenders: list[int] = []
    repeats: int = 0
    ends: float | None = None


class StudyFacts(Facts):
    """Everything that is stored about a study except its trials.

    ``identity`` has the settings that must be the same in all runs of the study. ``input_size`` and
    ``used_examples`` are those that the search chose: the side of the input images in pixels, None
    for that of the settings or of each backbone, and the number of examples, None for all.
    ``space_settings`` are those from which the last run made the search space.
    ``metric_has_unit`` says whether scores are in the unit of the targets, see ``scoring.metrics``.
    ``reason`` is the error of a study whose state is ``failed``. ``run`` is None until workers can
    join. ``unit_folds`` has the fold of each sampling unit of the training split, if it is divided
    into folds. ``seconds`` are those of all runs; ``run_seconds``, those of the last run, which
    ``budget_seconds`` limits. ``stages`` has the seconds spent in each stage. ``selection``,
    ``calibration``, ``out_of_sample`` and ``student`` belong to ``model``.
    """

    # settings
    seed: int = 0
    metric: str = "accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    metric_has_unit: bool = False
    prefer: Literal["accuracy", "cheap"] = "accuracy"
    identity: dict[str, Any] | None = None
    data: DataFacts = DataFacts()
    unit_folds: list[int] = []
    space: dict[str, Any] = {}
    space_settings: dict[str, Any] = {}
    excluded: list[ExcludedPlugin] = []
    compared_weights: list[ComparedWeights] = []
    unlabelled_methods: list[str] = []
    sampler: str = ""
    pruner: str = ""
    device: str = ""
    versions: dict[str, str] = {}
    command: str = ""
    budget_seconds: float | None = None
    first_budget_seconds: float | None = None
    run_seconds: float | None = None
    input_size: int | None = None
    used_examples: int | None = None
    used_unlabelled: int | None = None
    # progress
    state: State = ""
    reason: str = ""
    run: RunFacts | None = None
    repeat_plan: RepeatPlan | None = None
    seconds: float = 0.0
    stages: dict[str, Number] = {}
    # measurements
    mirroring: MirroringFacts | None = None
    screening: ScreeningFacts | None = None
    micro_batch_sizes: dict[str, int] = {}
    measured_costs: dict[str, Any] = {}
    warm_start: dict[str, dict[str, Any]] | None = None
    dashboard_notes: dict[str, str] = {}
    # results
    model: SavedModel | None = None
    selection: Selection | None = None
    calibration: Calibration | None = None
    out_of_sample: OutOfSampleScores | None = None
    student: StudentFacts | None = None
    weights: PretrainedWeights = PretrainedWeights()

    @property
    def score_decimals(self) -> int:
        """Decimals of a score: 4, or of a unit as many as give a constant's score four digits."""
        constant = self.data.majority.validation if self.data.majority else None
        if not self.metric_has_unit or not constant:
            return 4
        return max(0, 3 - math.floor(math.log10(abs(constant))))


class TrialFacts(Facts):
    """Measurements of a trial other than its score.

    Attributes:
        recipe: The name of its recipe in the portfolio, in parts; empty if it was sampled.
        is_default: Whether that recipe is the default recipe, on any backbone.
        is_probe: Whether it is the linear probe of its backbone.
        input: Size and key of the input of its model, see ``ModelInput``; None if unknown.
        effective_config: The configuration without what has no effect, as JSON.
        backbone_frozen: Whether only the head was trained; None if unknown.
        logme: LogME of the frozen features, in nats; see ``scoring.logme``.
        views: Number of augmented views of each image that the frozen prefix computed.
        folds: Number of folds on which it was scored; None for a validation split.
        compute: The fields of ``training.ComputeSettings``.
        costs: Milliseconds and bytes per image, see ``training.Cost``.
        ms_per_item: Milliseconds to predict one image.
        seconds_needed: Predicted training time in seconds.
        seconds_repeat: Seconds to retrain it on another resample.
        seconds_test: Seconds to predict the test split.
        budget_needed: The budget in seconds with which there would have been time to fine-tune the
            backbone; None if there was, or if that is unknown.
        low: The lower limit of the 95 % interval of the score; None if it is unknown.
        high: The upper limit.
        excluded: Why the limits of the last run exclude it; empty if they do not.
        traceback: Of an error that is not AutoTL's own.
    """

    recipe: list[str] = []
    is_default: bool = False
    is_probe: bool = False
    input: tuple[int, str] | None = None
    effective_config: str = ""
    backbone_frozen: bool | None = None
    logme: float | None = None
    views: int = 1
    folds: int | None = None
    compute: dict[str, Any] = {}
    costs: dict[str, float | None] = {}
    ms_per_item: float | None = None
    seconds_needed: float | None = None
    seconds_repeat: float | None = None
    seconds_test: float = 0.0
    budget_needed: float | None = None
    low: float | None = None
    high: float | None = None
    excluded: str = ""
    traceback: str = ""


class RepeatFacts(Facts):
    """Measurements of a repeat of a contender other than its score.

    ``members`` are the trials of a soup.
    """

    confusion_matrix: list[list[int]] | None = None
    members: list[int] = []
