"""The output of KenLM 0.3.0 for a small text: expected values for tests.

lmplz -o 3 --discount_fallback <TEXT >ARPA
lmplz -o 3 --discount_fallback --prune 0 0 1 <TEXT >PRUNED
build_binary trie ARPA BINARY
"""

import base64
import zlib

TEXT = """\
a dog bites the cat
the old dog sees her
she likes her
a dog sees her
the cat likes her
he sees her
the old dog bites a dog
he sees him
the cat sees the cat
he sees her
"""

ARPA = r"""\data\
ngram 1=15
ngram 2=24
ngram 3=28

\1-grams:
-1.3671159	<unk>	0
0	<s>	-0.21670915
-0.91965085	</s>	0
-1.1565936	a	-0.10473536
-1.1565936	dog	-0.13752787
-1.1755377	bites	-0.30103
-1.1042656	the	-0.20412
-1.1755377	cat	-0.30103
-1.1755377	old	-0.30103
-1.1042656	sees	-0.19188553
-1.1565936	her	-0.10473536
-1.1755377	she	-0.30103
-1.1565936	likes	-0.10473536
-1.1755377	he	-0.30103
-1.1755377	him	-0.30103

\2-grams:
-0.726619	dog </s>	0
-0.64430285	cat </s>	0
-0.51028705	her </s>	0
-0.2516867	him </s>	0
-1.0696015	<s> a	-0.045402836
-0.5453625	bites a	-0.27620643
-0.5701316	a dog	-0.27620643
-0.27175668	old dog	-0.27620643
-0.87176985	dog bites	-0.27620643
-0.60597634	<s> the	-0.045402836
-0.5386092	bites the	-0.27620643
-0.7555624	sees the	-0.27620643
-0.53503406	the cat	-0.14564934
-0.77801275	the old	-0.045402836
-0.8445997	dog sees	-0.045402836
-0.6861435	cat sees	-0.27620643
-0.26814687	he sees	-0.109600894
-0.81824803	sees her	-0.6564177
-0.5701316	likes her	-0.045402836
-1.0432179	<s> she	-0.27620643
-0.695659	cat likes	-0.27620643
-0.27175668	she likes	-0.27620643
-0.8522377	<s> he	-0.531479
-0.77491874	sees him	-0.27620643

\3-grams:
-0.5913967	a dog </s>
-0.67401004	the cat </s>
-0.07184235	sees her </s>
-0.4231583	likes her </s>
-0.11512289	sees him </s>
-0.41329518	dog bites a
-0.4664474	<s> a dog
-0.21251252	bites a dog
-0.23579732	the old dog
-0.64208806	a dog bites
-0.5136838	old dog bites
-0.41064486	dog bites the
-0.24907959	cat sees the
-0.50529635	<s> the cat
-0.20410043	bites the cat
-0.20410043	sees the cat
-0.6993984	<s> the old
-0.633428	a dog sees
-0.50722396	old dog sees
-0.5768385	the cat sees
-0.06323085	<s> he sees
-0.6268164	dog sees her
-0.7345934	he sees her
-0.21251252	cat likes her
-0.21251252	she likes her
-0.5821029	the cat likes
-0.12277181	<s> she likes
-0.5416286	he sees him

\end\
"""

PRUNED = r"""\data\
ngram 1=15
ngram 2=24
ngram 3=10

\1-grams:
-1.3671159	<unk>	0
0	<s>	-0.21670915
-0.91965085	</s>	0
-1.1565936	a	-0.10473536
-1.1565936	dog	-0.13752787
-1.1755377	bites	-0.30103
-1.1042656	the	-0.20412
-1.1755377	cat	-0.30103
-1.1755377	old	-0.30103
-1.1042656	sees	-0.19188553
-1.1565936	her	-0.10473536
-1.1755377	she	-0.30103
-1.1565936	likes	-0.10473536
-1.1755377	he	-0.30103
-1.1755377	him	-0.30103

\2-grams:
-0.726619	dog </s>	0
-0.64430285	cat </s>	0
-0.51028705	her </s>	0
-0.2516867	him </s>	0
-1.0696015	<s> a	-0.045402836
-0.5453625	bites a	0
-0.5701316	a dog	0
-0.27175668	old dog	0
-0.87176985	dog bites	0
-0.60597634	<s> the	-0.045402836
-0.5386092	bites the	0
-0.7555624	sees the	0
-0.53503406	the cat	-0.022108365
-0.77801275	the old	-0.045402836
-0.8445997	dog sees	-0.045402836
-0.6861435	cat sees	0
-0.26814687	he sees	-0.029735189
-0.81824803	sees her	-0.6564177
-0.5701316	likes her	-0.045402836
-1.0432179	<s> she	0
-0.695659	cat likes	0
-0.27175668	she likes	0
-0.8522377	<s> he	-0.531479
-0.77491874	sees him	0

\3-grams:
-0.5764223	the cat </s>
-0.07184235	sees her </s>
-0.4231583	likes her </s>
-0.4664474	<s> a dog
-0.23579732	the old dog
-0.50529635	<s> the cat
-0.6993984	<s> the old
-0.06323085	<s> he sees
-0.6268164	dog sees her
-0.6817535	he sees her

\end\
"""

BINARY = zlib.decompress(
    base64.b64decode(
        "eNrLzU0sUMjJVcgoKSmw0tfPzkhNTMtMzUnRS87P1U/OT0lVSMsvyk0sUShLLSrOzM9TMOViQIAGeyCxnxFI/AcCkAgjVIYZTB6wZ4KKgTA/VE"
        "4CSssgmcQHpQvqFPdatpUyCGZnX74kLs7+v1e4a/n2Fxalc2ZWtfFLJnPlfP9YW/wge//O9ufODzjLD2z/sk/2x4+6Hosb900+TGvXXvRUao26"
        "9ZKjJRdXbTix48iRBp3te+U/nu97PH3l9E/nb/3vu3srOmrpnU2bGNKD4u59h9m//O+6/SAPITmJgfFl7D4Y24l7yv66+mt7YXzWimn7ZyvM2s"
        "eExmeG8m3zssHmsaDJc6CZx4kmzw3lT47o3X+VJXAfD5o8P5p+AST1S2pd9gmhqRdFUi99hWefGAMqkGDADhy7+37MPnT+JSvHuZ0fisOzv7B2"
        "7i36AhLhXdgU8QMkItom4P8J5F+R00paH0AMGd+LvC9ADB0/6wWfQQyTl/X9Hy5rrPxgK2K96QVIV2hYtuJnECP235FPX0GMVEeRTR9BJpfuUJ"
        "kHtqt0zQmxLyBGLeORRV+FKxx+tIY7yYPVtPp0i3/9HO7wc+qywl+fQGqWnlox5UX1Zub3a/mqm7+C1Gy1EUwDaz8aBNQFYpwVhtp+F+a/BzDG"
        "vW2Wb7kft86M36S/6U8fm+jt46JKk23zdOLedxbePKpvso2pzuM3/9PkW/Ua8Sr7334PmrbgkfojINORTebHT6YJW84XyP6rUTk386lx4Tmd+U"
        "6WH/7EPOR7Mn3DauH9GT+533SKdp3Iv7OJue5U06oP3JKZ5fJdxWk/g2brnWNHDm+b0rxsOwabYjuGRIb8nBSG4oxUBht9IDc5sYQhJzM7tZgh"
        "KbMESJYAJcCoiKE4FcjPyMxlSMlPZwAA7pdTHw=="
    )
)
