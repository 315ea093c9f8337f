"""BibTeX of the work that a study used: by its measures, models, data and rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imgloop.errors import UserError
from imgloop.study.study import Study

ACCENTS = {"ń": "{\\'n}", "ł": "{\\l}", "ä": '{\\"a}', "é": "{\\'e}", "ç": "{\\c{c}}"}  # as BibTeX spells them


@dataclass(frozen=True)
class Work:
    """A published work and what it was used for; `fields` as BibTeX has them."""

    key: str
    kind: str
    use: str
    fields: tuple[tuple[str, str], ...]

    @property
    def bibtex(self) -> str:
        inner = ",\n".join(f"  {name} = {{{value}}}" for name, value in self.fields)
        inner = "".join(ACCENTS.get(c, c) for c in inner)
        return f"@{self.kind}{{{self.key},\n{inner}\n}}\n"

    @property
    def said(self) -> str:
        told = dict(self.fields)
        where = told.get("journal") or told.get("booktitle") or told.get("howpublished") or ""
        names = told["author"].split(" and ")
        last = [n.split(",")[0].replace("{", "").replace("}", "") for n in names]
        who = last[0] if len(last) == 1 else f"{last[0]} and {last[1]}" if len(last) == 2 else f"{last[0]} et al."
        title = told["title"].replace("{", "").replace("}", "")
        return f"{who} ({told['year']}). {title}. {where}.".replace("..", ".")


def _work(key: str, kind: str, use: str, author: str, title: str, year: int, where: str = "") -> Work:
    place = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}[kind]
    fields = (("author", author), ("title", title), ("year", str(year)), *(((place, where),) if where else ()))
    return Work(key, kind, use, fields)


SCHAEFFER = _work(
    "schaeffer2025position", "article", "the eight definitions of model collapse",
    "Schaeffer, Rylan and Kazdan, Joshua and Arulandu, Alvan Caleb and Koyejo, Sanmi",
    "Position: Model Collapse Does Not Mean What You Think", 2025, "arXiv:2503.03150",
)  # fmt: skip
IMGLOOP = _work(
    "imgloop", "misc", "this software", "{The imgloop authors}",
    "imgloop: a testbed for image generators trained on their own output", 2026, "Software, Apache-2.0",
)  # fmt: skip
MEASURES = {
    "fd": _work("heusel2017gans", "inproceedings", "Frechet distance",
        "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp",
        "{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local {Nash} Equilibrium", 2017,
        "Advances in Neural Information Processing Systems"),
    "kd": _work("binkowski2018demystifying", "inproceedings", "kernel distance",
        "Bińkowski, Mikołaj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur",
        "Demystifying {MMD} {GANs}", 2018, "International Conference on Learning Representations"),
    "precision": _work("kynkaanniemi2019improved", "inproceedings", "precision and recall",
        "Kynkäänniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo",
        "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
        "Advances in Neural Information Processing Systems"),
    "density": _work("naeem2020reliable", "inproceedings", "density and coverage",
        "Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun",
        "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
        "International Conference on Machine Learning"),
    "authenticity": _work("alaa2022faithful", "inproceedings", "authenticity",
        "Alaa, Ahmed and van Breugel, Boris and Saveliev, Evgeny S. and van der Schaar, Mihaela",
        "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models",
        2022, "International Conference on Machine Learning"),
    "vendi": _work("friedman2023vendi", "article", "Vendi score", "Friedman, Dan and Dieng, Adji Bousso",
        "The {Vendi} Score: A Diversity Evaluation Metric for Machine Learning", 2023,
        "Transactions on Machine Learning Research"),
}  # fmt: skip
SETTINGS = {  # by (setting, value) of a configuration
    ("model.objective", "flow"): _work("lipman2023flow", "inproceedings", "flow matching",
        "Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian and Le, Matt",
        "Flow Matching for Generative Modeling", 2023, "International Conference on Learning Representations"),
    ("model.objective", "edm"): _work("karras2022elucidating", "inproceedings", "EDM preconditioning",
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
        "Advances in Neural Information Processing Systems"),
    ("model.objective", "ddpm"): _work("ho2020denoising", "inproceedings", "denoising diffusion",
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter", "Denoising Diffusion Probabilistic Models", 2020,
        "Advances in Neural Information Processing Systems"),
    ("model.sampler", "ddim"): _work("song2021denoising", "inproceedings", "DDIM sampler",
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano", "Denoising Diffusion Implicit Models", 2021,
        "International Conference on Learning Representations"),
    ("model.sampler", "dpmpp"): _work("lu2022dpmpp", "article", "DPM-Solver++",
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
        "arXiv:2211.01095"),
    ("model", "gan"): _work("huang2024gan", "inproceedings", "relativistic GAN with two gradient penalties",
        "Huang, Nick and Gokaslan, Aaron and Kuleshov, Volodymyr and Tompkin, James",
        "The {GAN} is dead; long live the {GAN}! A Modern {GAN} Baseline", 2024,
        "Advances in Neural Information Processing Systems"),
    ("data", "digits"): _work("alpaydin1998optical", "misc", "handwritten digits",
        "Alpaydin, Ethem and Kaynak, Cenk", "Optical Recognition of Handwritten Digits", 1998,
        "UCI Machine Learning Repository"),
    ("data", "cifar10"): _work("krizhevsky2009learning", "misc", "CIFAR images", "Krizhevsky, Alex",
        "Learning Multiple Layers of Features from Tiny Images", 2009, "Technical report, University of Toronto"),
    ("data", "ffhq"): _work("karras2019style", "inproceedings", "FFHQ images",
        "Karras, Tero and Laine, Samuli and Aila, Timo",
        "A Style-Based Generator Architecture for Generative Adversarial Networks", 2019,
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition"),
    ("paradigm", "replace"): _work("shumailov2024ai", "article", "training on the newest samples",
        "Shumailov, Ilia and Shumaylov, Zakhar and Zhao, Yiren and Papernot, Nicolas and Anderson, Ross and Gal, Yarin",
        "{AI} models collapse when trained on recursively generated data", 2024, "Nature"),
    ("paradigm", "accumulate"): _work("gerstgrasser2024inevitable", "inproceedings", "accumulating samples",
        "Gerstgrasser, Matthias and Schaeffer, Rylan and Dey, Apratim and Rafailov, Rafael and Sleight, Henry and "
        "Hughes, John and Korbak, Tomasz and Agrawal, Rajashree and Pai, Dhruv and Gromov, Andrey and "
        "Roberts, Daniel A. and Yang, Diyi and Donoho, David L. and Koyejo, Sanmi",
        "Is Model Collapse Inevitable? Breaking the Curse of Recursion by Accumulating Real and Synthetic Data", 2024,
        "Conference on Language Modeling"),
    ("paradigm", "accumulate_subsample"): _work("kazdan2024collapse", "article", "accumulating under a budget",
        "Kazdan, Joshua and Schaeffer, Rylan and Dey, Apratim and Gerstgrasser, Matthias and Rafailov, Rafael and "
        "Donoho, David L. and Koyejo, Sanmi",
        "Collapse or Thrive? Perils and Promises of Synthetic Data in a Self-Generating World", 2024,
        "arXiv:2410.16713"),
    ("paradigm", "fresh"): _work("alemohammad2024self", "inproceedings", "loops with fresh real data",
        "Alemohammad, Sina and Casco-Rodriguez, Josue and Luzi, Lorenzo and Humayun, Ahmed Imtiaz and "
        "Babaei, Hossein and LeJeune, Daniel and Siahkoohi, Ali and Baraniuk, Richard G.",
        "Self-Consuming Generative Models Go {MAD}", 2024, "International Conference on Learning Representations"),
    ("paradigm", "augment"): _work("bertrand2024stability", "inproceedings", "iterative retraining",
        "Bertrand, Quentin and Bose, Avishek Joey and Duplessis, Alexandre and Jiralerspong, Marco and Gidel, Gauthier",
        "On the Stability of Iterative Retraining of Generative Models on their own Data", 2024,
        "International Conference on Learning Representations"),
    ("features", "inception"): _work("szegedy2016rethinking", "inproceedings", "Inception features",
        "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew",
        "Rethinking the {Inception} Architecture for Computer Vision", 2016,
        "IEEE Conference on Computer Vision and Pattern Recognition"),
    ("features", "dinov2"): _work("oquab2024dinov2", "article", "DINOv2 features",
        "Oquab, Maxime and Darcet, Timothée and Moutakanni, Théo and others",
        "{DINOv2}: Learning Robust Visual Features without Supervision", 2024,
        "Transactions on Machine Learning Research"),
}  # fmt: skip
SETTINGS |= {("data", "cifar100"): SETTINGS["data", "cifar10"], ("data", "stacked_digits"): SETTINGS["data", "digits"]}
STATISTICS = (
    _work("holm1979simple", "article", "correction for several definitions", "Holm, Sture",
        "A Simple Sequentially Rejective Multiple Test Procedure", 1979, "Scandinavian Journal of Statistics"),
    _work("westfall1993resampling", "misc", "exact step-down sign-flip test",
        "Westfall, Peter H. and Young, S. Stanley", "Resampling-Based Multiple Testing", 1993, "Wiley"),
)  # fmt: skip
SCALING = _work("dohmatob2024tale", "inproceedings", "change in scaling laws",
    "Dohmatob, Elvis and Feng, Yunzhen and Yang, Pu and Charton, François and Kempe, Julia",
    "A Tale of Tails: Model Collapse as a Change of Scaling Laws", 2024, "International Conference on Machine Learning",
)  # fmt: skip


def used(study: Study, judged: bool, scaling: bool = False) -> list[Work]:
    """What a study should cite: `judged`, where verdicts were tested, `scaling`, where a scaling law was."""
    found = [IMGLOOP, SCHAEFFER]
    found += [work for column, work in MEASURES.items() if column in study.table and study.table[column].notna().any()]
    found += [SETTINGS[s] for s in SETTINGS if s in set(_settings(study))]
    found += [*STATISTICS] * judged + [SCALING] * scaling
    return list({work.key: work for work in found}.values())


def _settings(study: Study) -> Iterable[tuple[str, str]]:
    """(setting, value) of what models, data and rules a study used, as its records and folders tell them."""
    if study.is_csv:
        yield from (("paradigm", c.split(",")[0]) for c in study.conditions)
        return
    for condition in study.conditions:
        try:
            told = study.config(study.chain(condition, study.seeds(condition)[0]))
        except UserError:  # told where the study is described
            continue
        yield from ((group, str(option)) for group, option in told["choices"].items() if group != "features")
        model = told["config"].get("model")
        kept = model if isinstance(model, Mapping) else {}
        if told["choices"].get("model") == "diffusion":
            yield from ((f"model.{k}", str(kept.get(k))) for k in ("objective", "sampler"))
    if not study.solvable:
        yield "features", str(study.shown_protocol or "").split("-")[0]
