package differential

import "testing"

// TestReference holds the reference, and everybody else, to what SpiceDB's documentation says.
func TestReference(t *testing.T) {
	runAll(t, []sample{
		{
			name: "operators",
			schema: `definition doc {
				relation one: user
				relation two: user
				relation six: user
				permission union = one + two
				permission intersection = one & two
				permission exclusion = one - two
				permission three = one & two & six
				permission nested = (one + two) - (two & six)
				permission left = one - two - six
				permission nothing = nil
				permission little = one + nil
				permission less = one & nil
				permission without = one - nil
			}`,
			rows: []string{"doc:x#one@user:ann", "doc:x#two@user:ann", "doc:x#one@user:bob", "doc:x#two@user:cat", "doc:x#six@user:cat"},
			asks: []ask{
				has("doc:x#union@user:ann"), has("doc:x#union@user:bob"), has("doc:x#union@user:cat"), lacks("doc:x#union@user:dan"),
				has("doc:x#intersection@user:ann"), lacks("doc:x#intersection@user:bob"), lacks("doc:x#intersection@user:cat"),
				lacks("doc:x#exclusion@user:ann"), has("doc:x#exclusion@user:bob"), lacks("doc:x#exclusion@user:cat"),
				lacks("doc:x#three@user:ann"), lacks("doc:x#three@user:cat"),
				has("doc:x#nested@user:ann"), has("doc:x#nested@user:bob"), lacks("doc:x#nested@user:cat"),
				lacks("doc:x#left@user:ann"), has("doc:x#left@user:bob"),
				lacks("doc:x#nothing@user:ann"), has("doc:x#little@user:bob"), lacks("doc:x#less@user:bob"), has("doc:x#without@user:bob"),
				lacks("doc:y#union@user:ann"), has("doc:x#one@user:bob"), lacks("doc:x#one@user:cat"),
			},
		},
		{
			name: "arrows",
			schema: `definition folder {
				relation read: user | folder#read
				permission view = read
			}
			definition group { relation view: user }
			definition doc {
				relation sup: folder | group
				permission arrow = sup->view
				permission any = sup.any(view)
				permission all = sup.all(view)
				permission some = sup->read
				permission every = sup.all(read)
			}`,
			rows: []string{
				"doc:x#sup@folder:x", "doc:x#sup@folder:y", "folder:x#read@user:ann", "folder:y#read@user:ann", "folder:y#read@user:bob",
				"doc:y#sup@folder:x", "doc:y#sup@group:x", "group:x#view@user:ann", "group:x#view@user:cat",
			},
			asks: []ask{
				has("doc:x#arrow@user:ann"), has("doc:x#arrow@user:bob"), lacks("doc:x#arrow@user:cat"),
				has("doc:x#any@user:ann"), has("doc:x#any@user:bob"), lacks("doc:x#any@user:cat"),
				has("doc:x#all@user:ann"), lacks("doc:x#all@user:bob"), lacks("doc:x#all@user:cat"),
				has("doc:y#arrow@user:cat"), has("doc:y#all@user:ann"), lacks("doc:y#all@user:cat"),
				lacks("doc:z#all@user:ann"), lacks("doc:z#arrow@user:ann"),
				// group has no relation read: to the right of an arrow that is nobody.
				has("doc:y#some@user:ann"), lacks("doc:y#some@user:cat"), lacks("doc:y#every@user:ann"), has("doc:x#every@user:ann"),
			},
		},
		{
			name: "usersets, recursion and self",
			schema: `definition group {
				relation mem: user | group#mem | group#all
				relation boss: user
				permission all = mem + boss
				permission mine = self
				permission ours = self + mem
				permission notmine = mem - self
			}`,
			rows: []string{"group:x#mem@group:y#mem", "group:y#mem@group:z#all", "group:z#boss@user:ann", "group:z#mem@user:bob", "group:y#boss@user:cat"},
			asks: []ask{
				has("group:x#mem@user:ann"), has("group:x#mem@user:bob"), lacks("group:x#mem@user:cat"), has("group:y#all@user:cat"),
				has("group:x#mem@group:y#mem"), has("group:x#mem@group:z#all"), lacks("group:x#mem@group:y#all"), has("group:x#all@group:z#mem"),
				has("group:x#mine@group:x"), lacks("group:x#mine@group:y"), lacks("group:x#mine@group:x#mem"), has("group:x#mine@group:x#mine"),
				has("group:x#ours@group:x"), has("group:x#ours@user:ann"), lacks("group:x#mine@user:x"), has("group:x#notmine@user:ann"), lacks("group:x#notmine@group:x"),
			},
		},
		{
			name: "wildcards",
			schema: `definition user { relation friend: user }
			definition doc {
				relation read: user | user:*
				relation ban: user | user:*
				permission view = read - ban
				permission both = read & ban
			}`,
			rows: []string{"doc:x#read@user:*", "doc:x#ban@user:bob", "doc:y#read@user:ann", "doc:y#ban@user:*", "doc:z#read@user:*", "doc:z#ban@user:*"},
			asks: []ask{
				has("doc:x#read@user:ann"), has("doc:x#read@user:nobody"), has("doc:x#view@user:ann"), lacks("doc:x#view@user:bob"), has("doc:x#both@user:bob"),
				has("doc:y#read@user:ann"), lacks("doc:y#view@user:ann"), lacks("doc:y#read@user:bob"), lacks("doc:z#view@user:ann"),
				// A userset of the type is someone of the type.
				has("doc:x#read@user:ann#friend"), has("doc:x#view@user:bob#friend"), has("doc:x#read@doc:x#read"),
				lacks("doc:x#read@doc:x"), lacks("doc:x#read@doc:y#read"),
			},
		},
		{
			name: "caveats",
			schema: caveatTexts["over"] + caveatTexts["lit"] + caveatTexts["named"] + `definition doc {
				relation read: user with over | user with lit | user with named
				relation ban: user with lit
				relation own: user
				permission view = read - ban
				permission both = read & ban
				permission either = read + ban
				permission any = read + own
				permission not = own - ban
			}`,
			rows: []string{
				`doc:x#read@user:ann[over:{"least":3}]`, "doc:x#ban@user:ann[lit]", "doc:x#read@user:bob[over]",
				`doc:x#own@user:bob`, `doc:x#own@user:ann`, `doc:x#read@user:cat[named:{"names":["cat"]}]`,
			},
			asks: []ask{
				depends("doc:x#read@user:ann", "level"), has("doc:x#read@user:ann").given("level", 3.0), lacks("doc:x#read@user:ann").given("level", 2.0),
				// What is written with the relationship wins.
				lacks("doc:x#read@user:ann").given("level", 2.0, "least", 1.0),
				depends("doc:x#read@user:bob", "least,level"), depends("doc:x#read@user:bob", "level").given("least", 1.0), has("doc:x#any@user:bob"),
				depends("doc:x#view@user:ann", "lamp,level"), depends("doc:x#both@user:ann", "lamp,level"),
				lacks("doc:x#view@user:ann").given("lamp", true), depends("doc:x#view@user:ann", "lamp").given("level", 3.0),
				has("doc:x#both@user:ann").given("lamp", true, "level", 3.0), lacks("doc:x#both@user:ann").given("level", 1.0),
				has("doc:x#either@user:ann").given("lamp", true), depends("doc:x#either@user:ann", "lamp").given("level", 1.0),
				depends("doc:x#not@user:ann", "lamp,level"), lacks("doc:x#not@user:ann").given("lamp", true), has("doc:x#not@user:ann").given("lamp", false, "level", 1.0),
				depends("doc:x#read@user:cat", "name"), has("doc:x#read@user:cat").given("name", "cat"), lacks("doc:x#read@user:cat").given("name", "ann"),
			},
		},
		{
			name: "caveats that fail",
			schema: caveatTexts["half"] + caveatTexts["word"] + caveatTexts["over"] + `definition doc {
				relation read: user with half
				relation ban: user with over
				relation six: user with word
				relation own: user
				permission either = read + ban
				permission both = read & ban
				permission any = own + read
				permission none = read & nil
				permission gone = nil - read
				permission view = ban - read
				permission odd = ban & six
			}`,
			rows: []string{`doc:x#read@user:ann[half:{"num":4}]`, `doc:x#ban@user:ann[over:{"least":2}]`, "doc:x#own@user:ann", "doc:x#six@user:ann[word]"},
			asks: []ask{
				depends("doc:x#read@user:ann", "den"), has("doc:x#read@user:ann").given("den", 1.0),
				refuses("doc:x#read@user:ann").given("den", 0.0),
				refuses("doc:x#read@user:ann").given("den", "one"),
				has("doc:x#any@user:ann").given("den", 0.0), lacks("doc:x#none@user:ann").given("den", 0.0), lacks("doc:x#gone@user:ann").given("den", 0.0),
				// Class a: SpiceDB evaluates the parts in the order in which they came.
				has("doc:x#either@user:ann").given("den", 0.0, "level", 3.0), lacks("doc:x#both@user:ann").given("den", 0.0, "level", 1.0),
				lacks("doc:x#view@user:ann").given("den", 0.0, "level", 1.0),
				// An error is worse than what is missing, and than what does not decide.
				refuses("doc:x#either@user:ann").given("den", 0.0),
				refuses("doc:x#both@user:ann").given("den", 0.0),
				refuses("doc:x#either@user:ann").given("den", 0.0, "level", 1.0),
				refuses("doc:x#both@user:ann").given("den", 0.0, "level", 3.0),
				// A field of two types.
				refuses("doc:x#odd@user:ann").given("level", 3.0),
				refuses("doc:x#odd@user:ann").given("level", "high"),
			},
		},
		{
			name: "expirations",
			schema: caveatTexts["over"] + `definition group { relation mem: user | user with expiration }
			definition doc {
				relation read: user with expiration | group#mem with expiration | user with over and expiration
				relation sup: group with expiration
				permission view = sup->mem
				permission all = sup.all(mem)
			}`,
			rows: []string{
				"doc:x#read@user:ann[later]", "doc:x#read@user:bob[expired]", "doc:x#read@group:x#mem[expired]", "doc:x#read@group:y#mem[later]",
				"group:x#mem@user:cat", "group:y#mem@user:dan[later]", "group:y#mem@user:eve[expired]", "doc:x#read@user:fay[over][expired]",
				"doc:x#read@user:gil[over][later]", "doc:x#sup@group:x[expired]", "doc:x#sup@group:y[later]",
			},
			asks: []ask{
				has("doc:x#read@user:ann"), lacks("doc:x#read@user:bob"), lacks("doc:x#read@user:cat"), has("doc:x#read@user:dan"), lacks("doc:x#read@user:eve"),
				lacks("doc:x#read@user:fay"), depends("doc:x#read@user:gil", "least,level"), lacks("doc:x#view@user:cat"), has("doc:x#view@user:dan"),
				has("doc:x#all@user:dan"), lacks("doc:x#all@user:cat"),
			},
		},
		{
			name: "what is not there",
			schema: `definition group { relation mem: user }
			definition doc { relation read: user | group#mem }`,
			rows: []string{"doc:x#read@user:ann"},
			asks: []ask{
				lacks("doc:nowhere#read@user:ann"), lacks("doc:x#read@user:nobody"), lacks("doc:x#read@group:nobody#mem"),
				fails("ghost:x#read@user:ann"), fails("doc:x#gone@user:ann"), fails("doc:x#read@ghost:ann"), fails("doc:x#read@user:ann#gone"),
				fails("doc:x#read@group:x#gone"), refuses("doc:x#read@user:*"),
			},
		},
	})
}

// TestTraps holds everybody to where evaluators go wrong.
func TestTraps(t *testing.T) {
	group := "definition group { relation mem: user | group#mem }\n"
	runAll(t, []sample{
		{
			name:   "49 hops answer and 50 fail",
			schema: group,
			rows:   chain("group:n%d#mem@group:n%d#mem", "group:n60#mem@user:ann", "group:n49#mem@user:bob", "group:n50#mem@user:cat"),
			asks: []ask{
				has("group:n0#mem@user:bob"), fails("group:n0#mem@user:cat"), has("group:n1#mem@user:cat"),
				has("group:n11#mem@user:ann"), fails("group:n10#mem@user:ann"), fails("group:n0#mem@user:nobody"), lacks("group:n20#mem@user:nobody"),
				// The chain itself: a row that names the subject is found without a step, identity takes one.
				has("group:n0#mem@group:n49#mem"), has("group:n0#mem@group:n50#mem"), fails("group:n0#mem@group:n51#mem"),
			},
		},
		{
			name: "identity where no row says so takes a step, but none after an arrow or a computed relation",
			schema: `definition group {
				relation mem: user | group#mem
				relation sup: group
				permission chief = sup->chief + mem
				permission top = sup->top + mem + nil
			}`,
			rows: chain("group:n%d#sup@group:n%d", "group:n60#mem@user:ann"),
			asks: []ask{
				has("group:n0#chief@group:n49#chief"), has("group:n0#chief@group:n50#chief"), fails("group:n0#chief@group:n51#chief"),
				has("group:n0#chief@group:n48#mem"), has("group:n0#chief@group:n49#mem"), fails("group:n0#chief@group:n50#mem"),
				has("group:n12#chief@user:ann"), fails("group:n11#chief@user:ann"), has("group:n5#top@group:n5#top"), has("group:n5#top@group:n5#mem"),
			},
		},
		{
			name: "identity with no row, in the middle of a walk and after arrows",
			schema: `definition group { relation mem: user | group#mem
				permission all = mem }
			definition doc {
				relation sup: group
				relation read: group#mem | group#all
				permission view = sup->mem
				permission every = sup.all(mem)
				permission alias = sup->all
				permission not = read - sup->mem
			}`,
			rows: []string{"doc:x#sup@group:x", "doc:x#sup@group:y", "doc:y#sup@group:x", "doc:x#read@group:x#all", "doc:y#read@group:x#mem"},
			asks: []ask{
				has("group:x#mem@group:x#mem"), has("group:x#all@group:x#all"), has("group:x#all@group:x#mem"), lacks("group:x#mem@group:x#all"),
				has("doc:x#view@group:x#mem"), lacks("doc:x#every@group:x#mem"), has("doc:y#every@group:x#mem"), has("doc:x#alias@group:x#mem"), has("doc:x#alias@group:x#all"),
				lacks("doc:x#view@group:x#all"), has("doc:x#read@group:x#all"), has("doc:x#read@group:x#mem"), lacks("doc:y#not@group:x#mem"), has("doc:x#not@group:x#all"),
				lacks("doc:x#view@group:x"), has("doc:nowhere#view@doc:nowhere#view"), lacks("doc:x#view@doc:x#read"),
			},
		},
		{
			name: "an alias takes no step, unless the subject is of the same type",
			schema: `definition group {
				relation mem: user | group#mem | group#all | group#also
				permission all = mem
				permission also = all
				permission more = mem + nil
			}`,
			rows: chain("group:n%d#mem@group:n%d#also", "group:n49#mem@user:ann", "group:n50#mem@user:bob"),
			asks: []ask{
				has("group:n0#also@user:ann"), has("group:n0#mem@user:ann"), fails("group:n0#also@user:bob"), has("group:n1#also@user:bob"), fails("group:n0#more@user:ann"),
				has("group:n1#more@user:ann"), has("group:n0#mem@group:n5#mem"), has("group:n0#also@group:n0#also"), has("group:n0#also@group:n0#all"),
				has("group:n0#also@group:n16#mem"), has("group:n0#also@group:n16#also"), fails("group:n0#also@group:n17#also"), fails("group:n0#also@group:n18#also"), fails("group:n0#also@group:n30#mem"),
			},
		},
		{
			name: "arrows do not look at the relations of the rows they follow",
			schema: `definition group {
				relation mem: user
				relation boss: user
				permission all = mem + boss
			}
			definition doc {
				relation sup: group#mem | group
				permission view = sup->boss
				permission every = sup.all(all)
			}`,
			rows: []string{"doc:x#sup@group:x#mem", "group:x#boss@user:ann", "group:x#mem@user:bob", "doc:y#sup@group:x#mem", "doc:y#sup@group:x"},
			asks: []ask{
				has("doc:x#view@user:ann"), lacks("doc:x#view@user:bob"), has("doc:x#every@user:bob"), has("doc:y#every@user:ann"), has("doc:x#sup@user:bob"),
				has("doc:x#sup@group:x#mem"), lacks("doc:x#sup@group:x"), has("doc:y#sup@group:x"), has("doc:x#view@group:x#boss"), lacks("doc:x#view@group:x#mem"),
			},
		},
		{
			name: "cycles",
			schema: group + `definition doc {
				relation read: user | group#mem
				relation own: user
				permission view = read + own
				permission both = read & own
				permission not = own - read
				permission taken = read - own
			}`,
			rows: []string{
				"group:x#mem@group:y#mem", "group:y#mem@group:x#mem", "group:y#mem@user:ann", "group:z#mem@group:z#mem", "doc:x#read@group:x#mem",
				"doc:x#own@user:bob", "doc:x#read@user:dan", "doc:x#own@user:dan",
			},
			asks: []ask{
				has("group:x#mem@user:ann"), has("group:y#mem@user:ann"), fails("group:x#mem@user:bob"), fails("group:z#mem@user:ann"), has("group:z#mem@group:z#mem"),
				has("group:x#mem@group:y#mem"), fails("group:x#mem@group:z#mem"), has("doc:x#read@user:dan"), has("doc:x#both@user:dan"), lacks("doc:x#taken@user:dan"),
				// Class a: what decides is definite, and the other branch fails.
				has("doc:x#view@user:bob"), lacks("doc:x#both@user:cat"), lacks("doc:x#not@user:cat"),
				lacks("doc:x#taken@user:bob").where("error FailedPrecondition"),
				// Nothing decides.
				fails("doc:x#view@user:cat"), fails("doc:x#both@user:bob"), fails("doc:x#not@user:bob"), fails("doc:x#taken@user:cat"),
			},
		},
		{
			name: "a cycle of permissions",
			schema: `definition doc {
				relation read: user
				relation sup: doc
				permission view = read + edit
				permission edit = (view & read) + sup->view
			}`,
			rows: []string{"doc:x#read@user:ann", "doc:x#sup@doc:x"},
			asks: []ask{has("doc:x#view@user:ann"), fails("doc:x#view@user:bob"), has("doc:x#edit@doc:x#view")},
		},
		{
			name: "a caveat that is true does not decide before the end",
			schema: caveatTexts["over"] + group + `definition doc {
				relation read: user with over
				relation loop: group#mem
				relation own: user
				permission view = read + loop
				permission both = read & loop
				permission not = loop - read
				permission final = read + own
			}`,
			rows: []string{
				`doc:x#read@user:ann[over:{"level":2,"least":1}]`, "doc:x#loop@group:x#mem", "group:x#mem@group:x#mem", `doc:x#read@user:bob[over:{"level":1,"least":2}]`,
				"doc:x#own@user:bob",
			},
			asks: []ask{
				has("doc:x#read@user:ann"), lacks("doc:x#read@user:bob"), fails("doc:x#view@user:ann"), fails("doc:x#both@user:bob"), fails("doc:x#not@user:ann"),
				has("doc:x#final@user:bob"),
			},
		},
		{
			name: "a caveat or an expiration beside a userset of the same type",
			schema: caveatTexts["over"] + `definition group {
				relation mem: user | group with over | group with expiration | group#mem | group#boss with over
				relation boss: user | group:* with over
			}`,
			rows: []string{"group:x#mem@group:y[over]", "group:x#mem@group:z[expired]", "group:x#mem@group:y#boss[over]", "group:y#boss@user:ann", "group:z#boss@group:*[over]"},
			asks: []ask{
				depends("group:x#mem@group:y", "least,level"), lacks("group:x#mem@group:z"), depends("group:x#mem@user:ann", "least,level"),
				depends("group:x#mem@group:y#boss", "least,level"), depends("group:z#boss@group:x", "least,level"), depends("group:z#boss@group:x#mem", "least,level"),
			},
		},
		{
			name: "caveats on the way to usersets and over arrows",
			schema: caveatTexts["over"] + caveatTexts["lit"] + `definition group {
				relation mem: user | user with lit
				relation open: user:* with lit
				permission all = mem + open
			}
			definition doc {
				relation read: group#mem | group#mem with over | user with lit | user:* with over
				relation sup: group | group with over
				permission view = sup->all
				permission every = sup.all(all)
				permission not = read - sup->all
			}`,
			rows: []string{
				"doc:x#read@group:x#mem[over]", "group:x#mem@user:ann", "group:x#mem@user:bob[lit]", "group:y#mem@user:ann[lit]", "group:y#open@user:*[lit]",
				"doc:x#sup@group:x[over]", "doc:x#sup@group:y", "doc:y#read@user:ann[lit]", "doc:y#read@user:*[over]", "doc:y#read@group:x#mem",
			},
			asks: []ask{
				depends("doc:x#read@user:ann", "least,level"), depends("doc:x#read@user:bob", "lamp,least,level"), depends("doc:x#read@user:bob", "least").given("level", 5.0),
				lacks("doc:x#read@user:bob").given("level", 1.0, "least", 2.0), depends("doc:x#view@user:ann", "lamp,least,level"),
				has("doc:x#view@user:ann").given("lamp", true), depends("doc:x#every@user:ann", "least,level").given("lamp", true),
				has("doc:x#every@user:ann").given("lamp", true, "level", 1.0, "least", 1.0), depends("doc:x#view@user:cat", "lamp,level"), lacks("doc:x#every@user:cat"),
				has("doc:y#read@user:ann"), depends("doc:y#read@user:bob", "lamp,least,level"), depends("doc:y#read@user:cat", "least,level"),
				lacks("doc:x#not@user:ann").given("lamp", true), depends("doc:x#not@user:bob", "lamp").given("level", 1.0, "least", 1.0),
			},
		},
		{
			name: "class b: one check evaluates two resources at once, and .all takes the caveats of both",
			schema: caveatTexts["over"] + `definition group { relation mem: user }
			definition folder {
				relation sup: group | group with over
				permission all = sup.all(mem)
			}
			definition doc {
				relation own: folder
				relation read: folder#all
				permission view = own->all
				permission every = own.all(all)
				permission not = own->every - own->all
			}`,
			rows: []string{"doc:x#own@folder:x", "doc:x#own@folder:y", "folder:x#sup@group:x", "folder:y#sup@group:x[over]", "group:x#mem@user:ann", "doc:x#read@folder:x#all", "doc:x#read@folder:y#all"},
			asks: []ask{
				has("folder:x#all@user:ann"), depends("folder:y#all@user:ann", "least,level"),
				has("doc:x#view@user:ann").where("conditional on least,level"), has("doc:x#read@user:ann").where("conditional on least,level"),
				depends("doc:x#every@user:ann", "least,level"), has("doc:x#view@user:ann").given("level", 1.0, "least", 2.0).where("no"),
			},
		},
		{
			name: "rows that the schema does not allow",
			schema: `definition user { relation friend: user }
			definition group { relation mem: user
				relation any: user | user:* }
			definition doc {
				relation read: user
				relation users: group#mem
				relation all: user:*
				relation sup: group
				permission view = sup->mem
				permission every = sup.all(mem)
			}`,
			rows: []string{
				"doc:x#read@user:*", "doc:x#read@group:x#mem", "group:x#mem@user:ann", "doc:x#users@user:ann", "doc:x#users@group:x#any", "doc:x#all@user:ann",
				"group:x#any@user:bob", "doc:x#sup@user:ann", "doc:y#all@group:x#mem", "doc:y#users@group:x#gone", "doc:y#sup@ghost:x", "doc:z#users@ghost:x#mem",
				"doc:z#sup@group:*", "group:y#mem@user:ann#friend", "user:ann#friend@user:cat",
			},
			asks: []ask{
				lacks("doc:x#read@user:bob"), lacks("doc:x#read@user:ann"), lacks("doc:x#users@user:ann"), has("doc:x#users@user:bob"), lacks("doc:x#all@user:ann"),
				lacks("doc:x#view@user:ann"), lacks("doc:x#every@user:ann"), has("doc:y#all@user:ann"), fails("doc:y#users@user:ann"), fails("doc:y#view@user:ann"),
				fails("doc:y#every@user:ann"), fails("doc:z#users@user:ann"), lacks("doc:z#view@user:ann"), lacks("group:y#mem@user:cat"), lacks("group:y#mem@user:ann#friend"),
			},
		},
		{
			name: "a caveat that the schema does not know",
			schema: caveatTexts["over"] + `definition doc { relation read: user with over
				relation own: user
				permission view = read + own }`,
			rows: []string{"doc:x#read@user:ann[unknown]", "doc:x#read@user:bob[unknown]", "doc:x#own@user:bob", "doc:x#own@user:cat[over]"},
			asks: []ask{fails("doc:x#read@user:ann"), has("doc:x#view@user:bob"), depends("doc:x#view@user:cat", "least,level")},
		},
		{
			name: "names that are relations of several types",
			schema: `definition group { relation mem: user
				permission view = mem }
			definition folder { relation view: user | group#view | group#mem
				relation mem: folder }
			definition doc { relation sup: group | folder
				permission view = sup->view
				permission mem = sup->mem }`,
			rows: []string{"doc:x#sup@group:x", "doc:x#sup@folder:x", "group:x#mem@user:ann", "folder:x#view@group:y#view", "group:y#mem@user:bob", "folder:x#mem@folder:y"},
			asks: []ask{
				has("doc:x#view@user:ann"), has("doc:x#view@user:bob"), lacks("doc:x#mem@user:bob"), has("doc:x#mem@user:ann"), has("doc:x#mem@folder:y"), lacks("doc:x#view@folder:y"),
				has("doc:x#view@group:y#view"), has("doc:x#view@group:y#mem"), has("doc:x#view@folder:x#view"),
			},
		},
	})
}
