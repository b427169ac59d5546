"""Neutral captions of 5 to 9 common words in four languages, in which one word, the cue, carries a hidden bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """The words of one language.

    Attributes
    ----------
    cues : pair of tuples
        The noun phrases that say t = 0, and those that say t = 1. Each value has as many per article, and all are
        plain ASCII: neither the grammar nor a font without accents tells anything, only the word does.
    nouns, verbs, adverbs, links : tuples of distractors
        Drawn without a look at t; ``links`` stand between the two noun phrases of a caption.
    objects : dict
        Article -> the form it takes after a link (the German accusative).
    """

    cues: tuple[tuple[str, ...], tuple[str, ...]]
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adverbs: tuple[str, ...]
    links: tuple[str, ...]
    objects: Mapping[str, str]

    def caption(self, t: int, rng: np.random.Generator) -> str:
        """A caption whose cue word says ``t``; from one state of ``rng`` both values give the same distractors."""
        first, second = _pick(rng, self.cues[t]), _pick(rng, self.nouns)
        verb, link = _pick(rng, self.verbs), _pick(rng, self.links)
        short, swapped = rng.random(2) < (0.2, 0.5)
        if short:
            words, adverbs = [first, verb], 2
        else:
            if swapped:
                first, second = second, first
            article, noun = second.split()
            words, adverbs = (
                [f"{first} {verb}", f"{link} {self.objects.get(article, article)} {noun}"],
                int(rng.integers(4)),
            )
        for adverb in rng.choice(self.adverbs, adverbs, replace=False):
            words.insert(int(rng.integers(len(words) + 1)), str(adverb))
        return " ".join(words)

    def cue_words(self, t: int) -> frozenset[str]:
        """The words that say ``t``, in lower case."""
        return frozenset(phrase.split()[1].lower() for phrase in self.cues[t])


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _phrases(by_article: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{article} {noun}" for article, nouns in by_article.items() for noun in nouns.split())


def _vocabulary(
    *,
    cues: tuple[Mapping[str, str], Mapping[str, str]],
    nouns: Mapping[str, str],
    verbs: str,
    adverbs: str,
    links: str,
    objects: Mapping[str, str] | None = None,
) -> Vocabulary:
    return Vocabulary(
        (_phrases(cues[0]), _phrases(cues[1])),
        _phrases(nouns),
        tuple(verbs.split()),
        tuple(adverbs.split()),
        tuple(links.split()),
        objects or {},
    )


VOCABULARIES: dict[str, Vocabulary] = {
    "en": _vocabulary(
        cues=(
            {"the": "pebble candle button saddle barrel thimble wagon helmet"},
            {"the": "lantern kettle compass mitten anchor feather acorn ribbon"},
        ),
        nouns={
            "the": """
            garden river mountain window bridge table chair kitchen morning evening summer winter forest island castle
            village market station train bicycle boat airport library museum theatre school teacher student doctor
            farmer baker painter singer dancer writer neighbour brother sister mother father uncle cousin child friend
            guest pilot sailor driver tailor carpenter rabbit squirrel pony donkey goose duck sparrow owl turtle salmon
            butterfly spider hamster kitten puppy carrot potato tomato onion cabbage pumpkin apple pear cherry plum
            peach lemon orange banana strawberry walnut bread butter cheese honey sugar pepper soup salad sandwich
            pancake biscuit pudding coffee tea juice bottle cup plate spoon fork bowl basket bucket ladder hammer
            blanket pillow curtain carpet mirror drawer cupboard shelf lamp clock calendar newspaper letter postcard
            envelope pencil notebook paper camera telephone computer keyboard piano guitar violin trumpet drum song
            story poem picture painting statue fountain tower roof chimney wall fence gate path road street corner
            square park meadow valley hill lake ocean beach wave cloud rain snow wind storm sunrise sunset moon star
            sky rainbow shadow stone sand grass leaf flower tulip daisy rose oak"""
        },
        verbs="""
            waits sings dances sleeps smiles laughs runs walks jumps swims flies climbs falls stands sits lies rests
            works plays reads writes cooks bakes draws builds digs grows blooms shines glows burns melts freezes floats
            sinks drifts rolls turns spins swings moves stops starts ends opens closes knocks rings calls whispers
            shouts speaks listens watches dreams thinks wonders wakes travels returns arrives leaves hides appears
            disappears changes breathes coughs yawns nods hurries wanders stays lives helps wins learns counts talks
            snores whistles hums shakes trembles leans bends breaks vanishes trots""",
        adverbs="""
            today tomorrow yesterday always never often sometimes rarely usually soon later early slowly quickly quietly
            loudly gently softly calmly happily gladly proudly politely kindly carefully bravely easily nearly almost
            again together alone outside inside upstairs downstairs nearby everywhere somewhere here there now then
            still already perhaps maybe clearly suddenly finally secretly patiently""",
        links="near behind beside under above without like before",
    ),
    "de": _vocabulary(
        cues=(
            {"der": "Knopf Sattel Helm", "die": "Kerze Perle Muschel Murmel", "das": "Fass"},
            {"der": "Anker Kompass Kessel", "die": "Laterne Feder Glocke Schleife", "das": "Segel"},
        ),
        nouns={
            "der": """
            Garten Fluss Berg Tisch Stuhl Morgen Abend Sommer Winter Wald Markt Bahnhof Zug Flughafen Lehrer Arzt Maler
            Bruder Vater Onkel Freund Gast Fahrer Schneider Esel Sperling Lachs Hund Apfel Pfirsich Salat Kuchen Kaffee
            Tee Saft Teller Eimer Hammer Teppich Spiegel Schrank Kalender Brief Umschlag Bleistift Turm Brunnen Zaun
            Weg Platz Park See Ozean Strand Regen Schnee Wind Sturm Mond Stern Himmel Schatten Stein Sand Bach Vogel
            Fisch Frosch Igel Keller Balkon Koffer Mantel Schuh Handschuh Schal""",
            "die": """
            Küche Brücke Insel Burg Schule Bibliothek Straße Ecke Wiese Welle Wolke Sonne Blume Rose Tulpe Eiche
            Schwester Mutter Tante Katze Gans Ente Eule Schildkröte Spinne Karotte Kartoffel Tomate Zwiebel Birne
            Kirsche Pflaume Zitrone Orange Banane Erdbeere Nuss Butter Suppe Flasche Tasse Gabel Schüssel Leiter Decke
            Gardine Lampe Uhr Zeitung Postkarte Kamera Tastatur Gitarre Geige Trommel Geschichte Statue Wand Mauer Tür
            Treppe Stadt Reise Woche Stunde Nacht Jacke Mütze Tasche Brille Bank Biene Maus Kuh Ziege""",
            "das": """
            Fenster Haus Dorf Boot Fahrrad Museum Theater Kind Pferd Schaf Huhn Kaninchen Brot Gemüse Obst Wasser Salz
            Glas Messer Kissen Regal Telefon Klavier Lied Gedicht Bild Dach Tor Feld Tal Meer Licht Gras Blatt Papier
            Heft Buch Auto Flugzeug Schiff Zimmer Bett Sofa Hemd Kleid Tier Wetter Jahr Lamm Eichhörnchen Gebäude
            Geschenk Spielzeug Werkzeug""",
        },
        verbs="""
            wartet singt tanzt schläft lächelt lacht rennt läuft springt schwimmt fliegt klettert fällt steht sitzt
            liegt ruht arbeitet spielt liest schreibt kocht zeichnet gräbt wächst blüht scheint glüht brennt schmilzt
            friert treibt sinkt rollt dreht schaukelt hält beginnt endet öffnet klopft klingelt ruft flüstert spricht
            lauscht träumt denkt staunt erwacht reist kommt geht bleibt lebt hilft gewinnt lernt zählt redet schnarcht
            pfeift summt zittert bricht verschwindet erscheint atmet hustet gähnt nickt eilt wandert wackelt glänzt
            leuchtet funkelt duftet schweigt""",
        adverbs="""
            heute morgens gestern immer niemals oft manchmal selten meistens bald später früh langsam schnell leise laut
            sanft ruhig fröhlich gern stolz höflich freundlich vorsichtig mutig leicht beinahe fast wieder zusammen
            allein draußen drinnen oben unten nebenan überall irgendwo hier dort jetzt dann noch schon vielleicht
            plötzlich endlich heimlich geduldig""",
        links="ohne gegen durch für um und wie",
        objects={"der": "den"},
    ),
    "es": _vocabulary(
        cues=(
            {"el": "dedal casco barril anillo", "la": "vela perla concha canica"},
            {"el": "farol embudo trineo remo", "la": "campana pluma cinta bellota"},
        ),
        nouns={
            "el": """
            jardín río monte puente castillo mercado tren barco aeropuerto museo teatro maestro médico pintor vecino
            hermano padre tío primo niño amigo pastor sastre conejo burro pato búho salmón gato perro caballo tomate
            limón plátano melocotón pan queso bocadillo pastel café zumo plato tenedor cubo martillo espejo armario
            reloj calendario periódico lápiz cuaderno papel teléfono ordenador teclado piano violín tambor poema cuadro
            techo muro camino parque valle lago océano viento cielo sol sombrero zapato abrigo bolso árbol bosque campo
            pueblo barrio edificio balcón sótano invierno verano otoño día año minuto libro cuento""",
            "la": """
            ventana mesa silla cocina noche tarde isla estación bicicleta biblioteca escuela calle esquina plaza playa
            ola nube lluvia nieve tormenta luna estrella sombra piedra arena hierba hoja flor rosa hermana madre tía
            prima niña amiga vecina oveja gallina tortuga araña mariposa cabra vaca zanahoria patata cebolla calabaza
            manzana pera cereza ciruela naranja fresa nuez mantequilla miel sal pimienta sopa ensalada galleta leche
            botella taza cuchara cesta escalera manta almohada cortina alfombra lámpara carta postal tijera cámara
            guitarra trompeta canción historia pintura estatua fuente torre chimenea pared valla puerta carretera colina
            montaña orilla semana hora camisa falda chaqueta gorra bufanda maleta""",
        },
        verbs="""
            espera canta baila duerme sonríe ríe corre camina salta nada vuela sube cae descansa trabaja juega lee
            escribe cocina dibuja construye cava crece florece brilla arde flota rueda gira mueve para empieza termina
            abre cierra llama susurra grita habla escucha mira sueña piensa despierta viaja vuelve llega sale aparece
            desaparece cambia respira tose bosteza pasea vive ayuda gana aprende cuenta charla ronca silba tiembla queda
            sigue entra huye tropieza pregunta responde estudia""",
        adverbs="""
            hoy mañana ayer siempre nunca pronto luego temprano despacio rápidamente tranquilamente suavemente
            alegremente felizmente cuidadosamente fácilmente casi juntos fuera dentro arriba abajo cerca lejos aquí allí
            ahora entonces todavía quizás claramente finalmente pacientemente raramente normalmente lentamente
            silenciosamente amablemente también además mientras aún antes después apenas dulcemente""",
        links="sin con bajo sobre hacia contra para como",
    ),
    "fr": _vocabulary(
        cues=(
            {"le": "bouton casque tonneau panier", "la": "perle bille bougie selle"},
            {"le": "ruban grelot moulin chaudron", "la": "plume cloche lanterne boussole"},
        ),
        nouns={
            "le": """
            jardin fleuve pont château marché train bateau musée théâtre professeur médecin peintre voisin frère père
            cousin garçon boulanger facteur lapin canard hibou saumon chat chien cheval mouton citron pain beurre
            fromage miel sucre poivre gâteau café thé jus verre couteau seau marteau tapis miroir placard calendrier
            journal crayon cahier papier téléphone clavier piano violon tambour poème tableau toit mur chemin parc lac
            vent ciel soleil sable bois champ village quartier bâtiment balcon salon printemps matin soir jour mois
            livre conte chapeau manteau sac pantalon fauteuil lit renard moineau sapin navire phare pinceau
            ballon rideau sentier""",
            "la": """
            fenêtre table chaise cuisine nuit rivière montagne forêt gare bibliothèque route rue place plage vague
            pluie neige tempête lune pierre feuille fleur rose sœur mère tante cousine fille voisine boulangère poule
            tortue chèvre vache souris grenouille carotte tomate citrouille pomme poire cerise prune pêche banane
            fraise noix soupe salade crêpe bouteille tasse fourchette cuillère corbeille couverture lampe lettre carte
            photo guitare trompette chanson statue fontaine tour cheminée barrière porte colline vallée mer semaine
            saison journée chemise jupe veste valise ville maison chambre cave lumière grange ruelle barque
            cabane pendule brosse falaise fourmi""",
        },
        verbs="""
            attend chante danse dort sourit rit court marche saute nage vole grimpe tombe travaille joue lit écrit
            cuisine dessine construit creuse grandit fleurit brille brûle fond gèle flotte coule roule tourne bouge
            commence finit ouvre ferme frappe sonne appelle murmure crie parle écoute regarde rêve pense voyage revient
            arrive part apparaît disparaît change respire tousse bâille avance erre vit aide gagne apprend compte
            bavarde ronfle siffle tremble reste entre sort descend monte passe trotte étudie répond""",
        adverbs="""
            demain hier toujours jamais souvent parfois rarement bientôt tard tôt lentement vite doucement bruyamment
            calmement joyeusement volontiers fièrement poliment gentiment prudemment facilement presque encore ensemble
            dehors dedans partout ici maintenant alors déjà peut-être clairement soudain enfin secrètement patiemment
            dessus longtemps ailleurs autrefois""",
        links="sans avec sous devant derrière vers contre comme dans",
    ),
}
"""Language code (ISO 639-1) -> its words."""
