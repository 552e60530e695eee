"""What `calib COMMAND --help` says first: how a command is called, what it does, examples."""

TRAIN = """calib train [CONFIG.yaml ...] [key=value ...]
python train.py [CONFIG.yaml ...] [key=value ...]

Learns a prompt from a few images per class and shows it beside zero-shot and a CE-only prompt: on test
images, or where the data have none on the validation shots, which are no test results. YAML files are merged
from left to right over the defaults below, then the key=value changes in order. An interrupted run goes on
with the same command.

  calib train
  calib train data.name=folder data.root=IMAGES data.shots=16 seed=2
  calib train preset=calibprompt-ls loss.smac.alpha=0.1 "baselines=[coop,ls]" out=runs/mine
  calib train task=failure prompt=runs/mine
  calib train task=failure --help      (explains the settings of failure prediction)
"""

FAILURE = """calib train task=failure [CONFIG.yaml ...] [key=value ...]
python train.py task=failure [CONFIG.yaml ...] [key=value ...]

Learns which predictions of a prompt, of zero-shot, or of any model whose embeddings are in a file, are wrong,
and compares the head with simpler scores on the test images.

  calib train task=failure prompt=runs/mine
  calib train task=failure data.name=lc25000
  calib train task=failure embeddings.train=train.npz embeddings.test=test.npz
"""

SWEEP = """calib sweep [CONFIG.yaml ...] key=v1,v2 seed=1..5 [key=value ...]

Trains every combination of the listed values on the same backbone and data, many prompts side by side in
one process, each as if it were trained alone with its own folder. One table: mean and standard deviation
over seeds, in the order of a validation metric; test metrics stand beside it. An interrupted sweep goes on
with the same command. Its own settings: out=FOLDER, by=nll|brier|ece|accuracy (validation metric),
samples=N (combinations drawn at random, sample_seed=0), stack=16 (prompts side by side at most).

  calib sweep preset=coop,calibprompt,calibprompt-ls seed=1..5 out=runs/presets
  calib sweep loss.smac.alpha=0.01,0.05,0.2 loss.as.weight=0,0.01,0.1 optim.lr=0.001,0.002 samples=8 seed=1..3
"""

TUNE = """calib tune [CONFIG.yaml ...] key=low..high key=low..high:log key=a,b seed=1..3 trials=40

Searches settings with Optuna (pip install 'optuna>=4.2'). low..high is a range: of whole numbers if both ends
are written so (4..16), else of any (0.0..0.1); :log makes every factor of ten as likely; a,b,c is a list to
choose from; seed=1..3 are trained side by side in every trial. What is improved is the mean over seeds of a
metric of the validation shots; test metrics stand in the table and decide nothing. A trial worse than the
median of the earlier ones at the same epoch is stopped. Every finished trial leaves ordinary run folders. The
same command goes on after any interruption, trials that were running included, and several of them may work
on one folder at once.

Its own settings: trials=20 (altogether), by=nll|brier|ece|accuracy, out=FOLDER, workers=1 (processes: one per
GPU, or sharing the cores), prune=true, sample_seed=0.

  calib tune optim.lr=1e-4..1e-2:log loss.smac.alpha=0.01..0.3:log seed=1..3 trials=40 out=runs/tuned
  calib tune preset=coop,calibprompt prompt.n_ctx=4..16 data.val_shots=16 by=brier workers=2
"""

EVALUATE = """calib evaluate RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value ...]
python evaluate.py RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value ...]

Applies exported prompts (run folders, prompt.safetensors files, patterns of either) to their own test images
or to any data set with the same classes; over several seeds with mean, standard deviation and, against a
baseline, paired intervals.

  calib evaluate runs/demo-s1 runs/demo-s2 runs/demo-s3 baseline=coop out=runs/demo
  calib evaluate "runs/demo-s*" data.name=folder data.root=OTHER_IMAGES
"""

ROBUSTNESS = """calib robustness RUN ... [out=FOLDER] [key=value ...]

What corruptions of images (severities 1 to 5) and real shifts (by site, scanner, stain: a column) do to
finished runs: accuracy, ECE, NLL, failure AUROC and AURC, coverage of prediction sets, error and acceptance
of the review threshold, each with its relative robustness and paired intervals; whether confidence falls
where accuracy does; and beside it what models that see nothing would show. Encoded images are kept: the same
command goes on after an interruption.

  calib robustness runs/mine data.root=IMAGES
  calib robustness runs/mine data.root=IMAGES "corruptions=[blur,noise]" "severities=[1,2,3,4,5]" images=200
  calib robustness runs/mine shift_by=site "corruptions=[]" metadata=sites.csv "usual=[A]"
"""

REPORT = """calib report RUN ... [out=FILE.html] [key=value ...]

Writes one HTML page on finished runs (run folders of several seeds or methods, one failure run, the folder of
an evaluation, or files predictions.safetensors) that opens from disk and asks nothing of the network, and its
tables beside it as JSON, CSV and Markdown: what was found in sentences, comparison with intervals,
reliability, errors by review threshold with a slider, decision curves, classes, subgroups, single cases with
thumbnails where the images are at hand, provenance, and checklists of reporting filled in as far as they can
be.

  calib report runs/mine
  calib report runs/mine-s1 runs/mine-s2 runs/mine-s3 out=report.html
  calib report runs/failure-mine-all-s1 data.root=IMAGES
  calib report runs/mine slices=sites.csv names=false images=false out=shared.html
"""

SEGMENT = """calib segment data.root=FOLDER [CONFIG.yaml ...] [key=value ...]
calib segment predict RUN IMAGES ... --out FOLDER        (--help)
calib segment evaluate RUN ... [--data FOLDER]           (--help)

Trains a small network of MONAI (pip install 'monai>=1.3') that says the class of every pixel, and shows
Dice beside calibration errors of the test images with intervals. preset=dice-ce-ace adds a loss for
calibration, mL1-ACE: a lower calibration error of each image, at the risk that a rare kind of image is
unlearned; evaluate, below, names images whose Dice it costs. The folder has train/images and train/masks
(PNG, called as the images), likewise val and test; or a table with the columns file, mask, split and perhaps
group. An interrupted run goes on with the same command.

  calib data check NUCLEI
  calib segment data.root=NUCLEI "data.classes={background: 0, nucleus: [1, 2]}" out=runs/plain
  calib segment runs/plain/config.yaml preset=dice-ce-ace out=runs/ace
  calib segment evaluate runs/plain runs/ace --data OTHER_STAIN
  calib segment predict runs/ace new/*.png --out masks
"""
SELECT = """calib select FOLDER budget=N [strategy=NAME] [key=value ...]

Chooses which images to label, from their features and what the model doubts, without a label. FOLDER is
searched in depth; a table of images (CSV) says which are of one patient. Writes select.csv, whose column
label is to be filled in, contact sheets of the chosen images, and record.json. calib train
data.shots_from=FILE then learns from exactly these images, and labels=FILE goes on from them.

  calib select scans/ budget=24 "data.class_names=[normal,pneumonia]" out=chosen
  calib train data.name=pool data.root=scans/ "data.class_names=[normal,pneumonia]" \\
    data.shots_from=chosen/select.csv out=runs/first
  calib select scans/ budget=24 labels=chosen/select.csv prompt=runs/first strategy=entropy out=chosen2
  calib select data.name=cxr3 budget=24 strategy=typicality

Strategies: random; k_centre (far apart), typicality (one of each kind); entropy, margin (what the model
doubts); dual (doubt and representativeness), aligned (the same after alignment to source=...), epig (what
says most about the other images). On four data sets (benchmarks/selection_study.py) none was surely more
accurate than random; typicality came nearest, and entropy and margin did harm. Shots that are not random are
no sample of images to come, and nothing is guaranteed from them.
"""
